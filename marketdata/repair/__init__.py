"""What is missing, cut or out of date, and how it is made whole again; nothing here knows who asks for it."""
