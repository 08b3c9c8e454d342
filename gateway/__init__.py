"""The gateway process: configuration, composition, MQTT, operations.

May import `bridge`, `devices` and `log`; none of them imports it. Begin with gateway/app.py, which
puts the parts together; gateway/mqtt is the server.
"""
