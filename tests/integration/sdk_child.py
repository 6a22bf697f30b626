"""Runs the official Python SDK, unchanged, as a bot: one JSON line on stdout per step.

Arguments: domain, app id, app secret. Each text it receives is answered the way its first word
says: `text`, `patch` (a card that is patched), `stream` (a CardKit card that is streamed).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import lark_oapi as lark
from lark_oapi.api.cardkit.v1 import (
    Card,
    ContentCardElementRequest,
    ContentCardElementRequestBody,
    CreateCardRequest,
    CreateCardRequestBody,
    SettingsCardRequest,
    SettingsCardRequestBody,
    UpdateCardRequest,
    UpdateCardRequestBody,
)
from lark_oapi.api.im.v1 import (
    CreateMessageReactionRequest,
    CreateMessageReactionRequestBody,
    Emoji,
    PatchMessageRequest,
    PatchMessageRequestBody,
    ReplyMessageRequest,
    ReplyMessageRequestBody,
)
from lark_oapi.event.callback.model.p2_card_action_trigger import P2CardActionTriggerResponse

DOMAIN, APP_ID, SECRET = sys.argv[1:4]
client = lark.Client.builder().app_id(APP_ID).app_secret(SECRET).domain(DOMAIN).build()


def say(step: str, **facts: Any) -> None:
    """Tell the test."""
    sys.stdout.write(json.dumps({"step": step, **facts}) + "\n")
    sys.stdout.flush()


def checked(answer: Any) -> Any:
    """The answer's data; tells the test when it was refused."""
    if not answer.success():
        say("refused", code=answer.code, msg=answer.msg)
    return getattr(answer, "data", None)


def card(text: str, *, streaming: bool) -> str:
    """A card with one growing element."""
    element = {"tag": "markdown", "element_id": "answer", "content": text}
    config = {"streaming_mode": streaming, "update_multi": True}
    return json.dumps({"schema": "2.0", "config": config, "body": {"elements": [element]}})


def reply(message_id: str, msg_type: str, content: str) -> str:
    """Reply to a message; the new message's id."""
    body = ReplyMessageRequestBody.builder().msg_type(msg_type).content(content).build()
    request = ReplyMessageRequest.builder().message_id(message_id).request_body(body).build()
    sent: str = checked(client.im.v1.message.reply(request)).message_id
    return sent


def patch(message_id: str, content: str) -> None:
    """Patch a card message."""
    body = PatchMessageRequestBody.builder().content(content).build()
    request = PatchMessageRequest.builder().message_id(message_id).request_body(body).build()
    checked(client.im.v1.message.patch(request))


def react(message_id: str) -> None:
    """Put a reaction on a message."""
    kind = Emoji.builder().emoji_type("OK").build()
    body = CreateMessageReactionRequestBody.builder().reaction_type(kind).build()
    request = (
        CreateMessageReactionRequest.builder().message_id(message_id).request_body(body).build()
    )
    checked(client.im.v1.message_reaction.create(request))


def stream(message_id: str) -> None:
    """Stream a CardKit card and close it."""
    body = CreateCardRequestBody.builder().type("card_json").data(card("...", streaming=True))
    made = client.cardkit.v1.card.create(
        CreateCardRequest.builder().request_body(body.build()).build()
    )
    card_id = checked(made).card_id
    reply(message_id, "interactive", json.dumps({"type": "card", "data": {"card_id": card_id}}))
    for sequence, text in enumerate(("一", "一二", "一二三"), 1):
        content = ContentCardElementRequestBody.builder().content(text).sequence(sequence)
        request = ContentCardElementRequest.builder().card_id(card_id).element_id("answer")
        checked(
            client.cardkit.v1.card_element.content(request.request_body(content.build()).build())
        )
    settings = json.dumps({"config": {"streaming_mode": False}})
    change = SettingsCardRequestBody.builder().settings(settings).uuid("close").sequence(4).build()
    checked(
        client.cardkit.v1.card.settings(
            SettingsCardRequest.builder().card_id(card_id).request_body(change).build()
        )
    )
    last = Card.builder().type("card_json").data(card("一二三。", streaming=False)).build()
    update = UpdateCardRequestBody.builder().card(last).sequence(5).build()
    checked(
        client.cardkit.v1.card.update(
            UpdateCardRequest.builder().card_id(card_id).request_body(update).build()
        )
    )


def on_message(data: Any) -> None:
    """Answer as the text asks."""
    message = data.event.message
    text = json.loads(message.content)["text"]
    sender = data.event.sender.sender_id.open_id
    say("received", text=text, message_id=message.message_id, sender=sender)
    if text.startswith("text"):
        reply(message.message_id, "text", json.dumps({"text": f"got {text}"}))
        react(message.message_id)
    elif text.startswith("patch"):
        sent = reply(message.message_id, "interactive", card("before", streaming=False))
        patch(sent, card("after", streaming=False))
    elif text.startswith("stream"):
        stream(message.message_id)
    say("done", text=text)


def on_click(data: Any) -> P2CardActionTriggerResponse:
    """Answer a click with a toast."""
    say("clicked", value=data.event.action.value)
    return P2CardActionTriggerResponse({"toast": {"type": "success", "content": "ok"}})


handler = (
    lark.EventDispatcherHandler.builder("", "")
    .register_p2_im_message_receive_v1(on_message)
    .register_p2_card_action_trigger(on_click)
    .build()
)
lark.ws.Client(
    APP_ID, SECRET, event_handler=handler, domain=DOMAIN, log_level=lark.LogLevel.ERROR
).start()
