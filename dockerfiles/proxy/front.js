// What stands between browsers and configurable-http-proxy: whose forwarded headers are believed,
// where plain HTTP is sent, and how large and how slow a request may be.

import http from "node:http";
import https from "node:https";
import { BlockList, isIPv4 } from "node:net";

const HEADERS_WITHIN_MS = 60_000;
const CHECK_EVERY_MS = 30_000;
// What a proxy in front may say of the browser. From anybody else it is a lie.
const FORWARDED = [
  "forwarded",
  "x-forwarded-for",
  "x-forwarded-host",
  "x-forwarded-port",
  "x-forwarded-proto",
  "x-forwarded-scheme",
  "x-real-ip",
  "x-scheme",
];

// Returns a function that tells whether an address is one of `text`, a list of IPv4 addresses and
// subnets, separated by spaces.
export function addressMatcher(text) {
  const list = new BlockList();
  for (const each of text.split(/\s+/).filter(Boolean)) {
    const [network, prefix] = each.split("/");
    list.addSubnet(network, Number(prefix ?? 32), "ipv4");
  }
  return (address = "") => {
    const plain = address.replace(/^::ffff:/, "");
    return isIPv4(plain) && list.check(plain);
  };
}

export class Front {
  // publicUrl: where browsers reach the hub ("" where that is the name they used and httpsPort).
  // uploadTimeoutS: seconds for one whole request, its body included; 0: no limit.
  constructor({ publicUrl, trusted, httpsPort, uploadTimeoutS, maxHeaderSize }) {
    this.publicUrl = publicUrl;
    this.publicHost = publicUrl ? new URL(publicUrl).host : "";
    this.isTrusted = addressMatcher(trusted);
    this.httpsPort = httpsPort;
    this.maxHeaderSize = maxHeaderSize;
    this.answered = new WeakSet();
    const requestTimeout = uploadTimeoutS * 1000;
    this.limits = {
      requestTimeout,
      headersTimeout: requestTimeout ? Math.min(HEADERS_WITHIN_MS, requestTimeout) : HEADERS_WITHIN_MS,
      connectionsCheckingInterval: Math.min(CHECK_EVERY_MS, (requestTimeout || Infinity) / 2),
      maxHeaderSize,
    };
  }

  // Wrap the one HTTPS server that the proxy makes: it has no options for any of this.
  install() {
    const create = https.createServer;
    https.createServer = (options, listener) => {
      this.server = this.prepare(create({ ...options, ...this.limits }, listener));
      return this.server;
    };
  }

  // Listen for plain HTTP: it is sent to HTTPS, unless it comes from a proxy that ends TLS in front.
  listen(port) {
    const server = http.createServer(this.limits, (request, response) => {
      if (this.endsTls(request)) {
        this.server.emit("request", this.asEncrypted(request), response);
      } else {
        this.redirect(request, response);
      }
    });
    server.on("upgrade", (request, socket, head) => {
      if (this.endsTls(request)) {
        this.server.emit("upgrade", this.asEncrypted(request), socket, head);
      } else {
        socket.end("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
      }
    });
    server.on("clientError", (error, socket) => this.explain(error, socket));
    server.listen(port);
  }

  prepare(server) {
    const clean = (request) => this.clean(request);
    server.prependListener("request", clean);
    server.prependListener("upgrade", clean);
    server.on("clientError", (error, socket) => this.explain(error, socket));
    return server;
  }

  clean(request) {
    if (!this.isTrusted(request.socket.remoteAddress)) {
      for (const name of FORWARDED) delete request.headers[name];
    } else if (this.publicHost) {
      // Hub and notebooks compare it with the browser's Origin; not every proxy keeps it.
      request.headers.host = this.publicHost;
    }
  }

  endsTls(request) {
    const proto = (request.headers["x-forwarded-proto"] ?? "https").split(",")[0].trim();
    return this.publicUrl && this.isTrusted(request.socket.remoteAddress) && proto === "https";
  }

  asEncrypted(request) {
    // The mark by which the proxy knows an encrypted connection; it tells the hub of that.
    request.socket.pair = true;
    delete request.headers["x-forwarded-proto"];
    return request;
  }

  redirect(request, response) {
    const host = (request.headers.host ?? "").split(":")[0];
    if (!host && !this.publicUrl) {
      response.writeHead(400, { "Content-Type": "text/plain" });
      response.end("This hub is reached by HTTPS, and the request names no host to go to.\n");
      return;
    }
    const port = this.httpsPort === "443" ? "" : `:${this.httpsPort}`;
    const path = request.url.startsWith("/") ? request.url : "/";
    response.writeHead(301, { Location: (this.publicUrl || `https://${host}${port}`) + path });
    response.end();
  }

  explain(error, socket) {
    // What arrives after the first fault is one more, and must not cut the answer short.
    if (this.answered.has(socket)) return;
    this.answered.add(socket);
    if (error.code === "ECONNRESET" || !socket.writable) {
      socket.destroy();
      return;
    }
    const [status, text] = this.answer(error.code);
    const body = `${text}\n`;
    socket.end(
      `HTTP/1.1 ${status}\r\nContent-Type: text/plain; charset=utf-8\r\n` +
        `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`
    );
  }

  answer(code) {
    switch (code) {
      case "HPE_HEADER_OVERFLOW":
        return [
          "431 Request Header Fields Too Large",
          `The cookies and other headers of this request have more than ${this.maxHeaderSize} bytes. ` +
            "Delete the cookies of this site and its domain; an administrator can raise MAX_HEADER_SIZE.",
        ];
      case "ERR_HTTP_REQUEST_TIMEOUT":
        return [
          "408 Request Timeout",
          "The request was not complete in time. Send large files in parts, or by a faster line; " +
            "an administrator can raise UPLOAD_TIMEOUT_S.",
        ];
      default:
        return ["400 Bad Request", "This is not a request that the hub's proxy understands."];
    }
  }
}
