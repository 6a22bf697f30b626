"""Feishu and Lark: long connection, REST, codec and cards."""
