// Exit 0 if the proxy answers browsers and its API listens. The proxy survives a failed listen
// with no more than a line in its log, so one of the two answers does not prove the other.

import { request } from "node:https";
import { connect } from "node:net";
import { API_PORT, controlAddress } from "./control.js";

const TIMEOUT_MS = 3000;

function proxyAnswers() {
  return new Promise((resolve, reject) => {
    // The certificate names the site, not this address; nothing secret is sent.
    const options = { host: "127.0.0.1", port: 8000, path: "/_chp_healthz", rejectUnauthorized: false };
    request(options, (answer) => {
      answer.resume();
      if (answer.statusCode === 200) resolve();
      else reject(new Error(`the proxy answered ${answer.statusCode}`));
    })
      .on("error", reject)
      .end();
  });
}

function apiListens() {
  const host = controlAddress(process.env.CONTROL_SUBNET || "10.129.0.0/24");
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port: API_PORT }, () => {
      socket.destroy();
      resolve();
    }).on("error", reject);
  });
}

setTimeout(() => {
  console.error(`no answer within ${TIMEOUT_MS} ms`);
  process.exit(1);
}, TIMEOUT_MS);

try {
  await Promise.all([proxyAnswers(), apiListens()]);
  process.exit(0);
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
