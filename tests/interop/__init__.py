"""Clients that are not ours, against a real gateway process.

clients        one interface to five of them, and what each cannot do
mqtt_js        MQTT.js, driven over pipes
test_matrix    what each of them must be able to do
"""
