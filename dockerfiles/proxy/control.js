// Which of this container's addresses lies in the control network.

import { BlockList } from "node:net";
import { networkInterfaces } from "node:os";

export const API_PORT = 8001;

// The proxy's API listens on this address alone: the notebooks share another network with the
// proxy and must not reach it. Returns undefined if there is none.
export function controlAddress(subnet, interfaces = networkInterfaces()) {
  const [network, prefix] = subnet.split("/");
  const control = new BlockList();
  control.addSubnet(network, Number(prefix), "ipv4");
  // A virtual address of the service may sit on the loopback interface; tasks come and go
  // behind it, so it is no address of this one.
  return Object.values(interfaces)
    .flat()
    .find((it) => it.family === "IPv4" && !it.internal && control.check(it.address))?.address;
}
