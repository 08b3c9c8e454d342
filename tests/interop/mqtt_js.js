// MQTT.js as a process: subscribes and prints each message as a line of JSON, or publishes one
// message and ends when it is acknowledged. What to do is JSON in the only argument.
"use strict";
const fs = require("fs");
const path = require("path");

const modules = path.join(__dirname, "..", "..", ".cache", "mqttjs", "node_modules");
const mqtt = require(path.join(modules, "mqtt"));
const how = JSON.parse(process.argv[2]);

const client = mqtt.connect(how.url, {
  protocolVersion: 5,
  reconnectPeriod: 0,
  clientId: how.clientId || "",
  clean: !how.keeps,
  properties: { sessionExpiryInterval: how.keeps ? 300 : 0 },
  ca: how.ca ? fs.readFileSync(how.ca) : undefined,
  will: how.will ? { topic: how.will, payload: Buffer.from("gone"), qos: 1 } : undefined,
});

client.on("error", (error) => {
  console.log(String(error));
  process.exit(1);
});
client.on("message", (topic, payload, packet) => {
  const properties = packet.properties || {};
  console.log(
    JSON.stringify({
      topic,
      payload: payload.toString("hex"),
      qos: packet.qos,
      retain: packet.retain,
      contentType: properties.contentType || null,
      user: properties.userProperties || null,
    }),
  );
});
client.on("connect", () => {
  if (how.publish) {
    const properties = { contentType: "text/plain", userProperties: { unit: "°C" } };
    const options = { qos: how.qos, retain: how.retain, properties };
    client.publish(how.publish, how.payload, options, (error) => {
      if (error) throw error;
      client.end();
    });
  } else {
    client.subscribe(how.subscribe, { qos: 2 }, (error) => {
      if (error) throw error;
      console.log("ready");
    });
  }
});
process.on("SIGTERM", () => client.end(false, () => process.exit(0)));
