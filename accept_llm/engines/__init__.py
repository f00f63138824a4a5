"""Engines decide where the frozen weights live: on one device, in shards over processes, or on the
servers of a swarm. facts.py has what is known of each before it is opened.
"""
