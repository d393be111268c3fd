"""Where live trades come from: exchanges' sockets, candles by REST, and what was recorded."""
