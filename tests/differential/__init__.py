"""The same packets to Mosquitto and to us, and what came back, compared.

    sequences       what is sent: steps of two clients, as Hypothesis strategies
    malformed       packets that no client may send, by name
    player          plays a sequence to one server and writes down what came
    differences     where the two may differ, each with the clause that says who is right

The standard says what must be; Mosquitto says what devices have got used to.
"""
