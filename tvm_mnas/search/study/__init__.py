"""A search's study: its journal or its database, who works on it, and what of it is held in memory."""
