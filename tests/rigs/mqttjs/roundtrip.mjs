// One client of MQTT.js: connects, subscribes, publishes at every QoS, prints what comes back.
//   node roundtrip.mjs URL PROTOCOL_VERSION [CA_FILE]
// Exit status 0 when all came and the connection was closed in order; else 1, with the reason.
import fs from 'fs'
import mqtt from 'mqtt'

const [url, version, ca] = process.argv.slice(2)
const fail = (why) => { console.log(why); process.exit(1) }
// The certificate is for a name that no name server knows.
const trust = ca ? { ca: fs.readFileSync(ca), checkServerIdentity: () => undefined } : {}
const options = { clientId: 'mqttjs', reconnectPeriod: 0, protocolVersion: Number(version) }
const client = mqtt.connect(url, { ...options, ...trust, wsOptions: trust })
const got = []

setTimeout(() => fail(`time is up; got ${got}`), 15000)
client.on('error', (error) => fail(`error: ${error.message}`))
client.on('connect', () => client.subscribe('mqttjs/#', { qos: 2 }, () => {
  for (const qos of [0, 1, 2]) client.publish(`mqttjs/${qos}`, Buffer.alloc(70000 + qos), { qos })
}))
client.on('message', (topic, payload, packet) => {
  got.push(`${topic} ${payload.length} ${packet.qos}`)
  if (got.length < 3) return
  client.end(false, {}, () => { console.log(got.sort().join('\n')); process.exit(0) })
})
