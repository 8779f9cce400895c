"""The pure heart: names, keys and the scheduler.  Events in, commands out; no I/O, no clock, no logging, no asyncio."""
