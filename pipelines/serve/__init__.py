"""A server of models on this machine, for clients that speak the OpenAI dialect, and a conversation in the terminal.

    models.py       what a reference names, opened: network, tokenizer, template
    asked.py        a request's JSON, checked field by field            fields.py   one field
    texts.py        conversations and texts as tokens, and tokens as text
    answers.py      a request's prompts, and the answers to be drawn    metrics.py  counts, as Prometheus reads them
    answer_queue.py who waits for which answer, in front of the thread that decodes
    replies.py      answers as JSON                                      streams.py  answers while they are made
    app.py          the endpoints                                        guards.py   who may ask, and how much
    listen.py       the port, from start to end                          secret.py   the secret that clients send
    reloading.py    other weights while it runs
    conversation.py a conversation with a policy, without a port

The decoder is `trainers.engine.inference`: it knows token ids alone.
"""
