"""Who may do and see what: accounts, audiences, roles."""
