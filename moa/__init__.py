"""MoA router: route a backlog of queries to the models that are worth their price."""
