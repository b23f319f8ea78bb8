"""The subcommand `doctor`: checks whether notifications can arrive and be processed; if not, why.

    command -> examining -> reaching -> server, arriving, activity, spelling, durable_log
                                        queues -> contrib.celery.checkup, contrib.rq.checkup

A check is a generator of findings. It asks every question with a deadline, and changes nothing.
"""
