"""The subcommand `doctor`: can notifications arrive, and be worked on? If not, why?

    command -> examining -> reaching -> server, arriving, activity, spelling, durable_log
                                        queues -> contrib.celery.checkup, contrib.rq.checkup

A check is a generator of findings. It asks every question with a deadline, and changes nothing.
"""
