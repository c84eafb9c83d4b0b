// Start configurable-http-proxy with its token from a secret's file.
//
// The proxy reads its token from the environment only, and without one its API is open to
// anybody. So: no start without a token, and the token enters the environment inside this process,
// which neither the engine nor /proc/PID/environ shows.

import { readFileSync, writeFileSync } from "node:fs";
import { API_PORT, controlAddress } from "./control.js";
import { Front } from "./front.js";

function refuse(what, remedy) {
  console.error(`The proxy does not start: ${what}. ${remedy}`);
  process.exit(1);
}

function readToken(file) {
  let token = "";
  try {
    token = readFileSync(file, "utf8").trim();
  } catch (error) {
    refuse(`its token cannot be read (${error.message})`, "The service must mount the secret there.");
  }
  if (!token) {
    refuse(`its token is empty (${file})`, "Make a new one with 'jhswarmd rotate proxy'.");
  }
  return token;
}

function findApiAddress(subnet) {
  let address;
  try {
    address = controlAddress(subnet);
  } catch (error) {
    refuse(`CONTROL_SUBNET is not a subnet (${subnet}: ${error.message})`, "Correct the profile.");
  }
  if (!address) {
    refuse(
      `it has no address in ${subnet}, where its API must listen`,
      "CONTROL_SUBNET and the subnet of the network 'control' must be the same."
    );
  }
  return address;
}

const env = process.env;
const apiAddress = findApiAddress(env.CONTROL_SUBNET || "10.129.0.0/24");
writeFileSync("/tmp/api-address", apiAddress); // for the health check
const secrets = "/run/secrets";
process.env.CONFIGPROXY_AUTH_TOKEN = readToken(env.PROXY_TOKEN_FILE || `${secrets}/proxy_auth_token`);

// prettier-ignore
const options = [
  "--ip", "0.0.0.0",
  "--port", "8000",
  "--ssl-key", env.PROXY_TLS_KEY_FILE || `${secrets}/tls_key`,
  "--ssl-cert", env.PROXY_TLS_CERT_FILE || `${secrets}/tls_cert`,
  // Longer than proxies of sites keep idle connections (60 s): they never meet one that closes.
  "--keep-alive-timeout", "75000",
  "--api-ip", apiAddress,
  "--api-port", String(API_PORT),
  "--default-target", "http://hub:8081",
  "--error-target", "http://hub:8081/hub/error",
];
process.argv = [process.argv[0], "configurable-http-proxy", ...options, ...process.argv.slice(2)];

const front = new Front({
  publicUrl: env.PUBLIC_URL || "",
  trusted: env.TRUSTED_PROXIES || "",
  // The published port: what browsers must be sent to, not what listens here.
  httpsPort: env.HTTPS_PORT || "443",
  uploadTimeoutS: Number(env.UPLOAD_TIMEOUT_S || 0),
  maxHeaderSize: Number(env.MAX_HEADER_SIZE || 65536),
});
front.install();
await import("configurable-http-proxy/bin/configurable-http-proxy");
front.listen(8080);
