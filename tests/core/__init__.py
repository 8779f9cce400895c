"""The pure heart: events in, commands out."""
