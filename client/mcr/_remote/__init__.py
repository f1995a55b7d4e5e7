"""The way to nodes over the network; imported only when somebody connects to one."""

from mcr._remote.connection import connect as connect
