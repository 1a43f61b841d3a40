"""What an evaluation found, for machines (report.json), for people (HTML) and for the terminal."""
