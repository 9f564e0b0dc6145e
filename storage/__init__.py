"""The stores. Each keeps the contract `database.MessageStore`; only `database.py` opens them."""
