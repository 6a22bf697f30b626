// Runs the official Node SDK, unchanged, as a bot: one JSON line on stdout per step.
// Arguments: domain, app id, app secret. Each text is answered the way its first word says.
"use strict";
const lark = require("@larksuiteoapi/node-sdk");

const [domain, appId, appSecret] = process.argv.slice(2);
const options = { appId, appSecret, domain, loggerLevel: lark.LoggerLevel.error };
const client = new lark.Client(options);
const say = (step, facts) => process.stdout.write(JSON.stringify({ step, ...facts }) + "\n");

function card(text, streaming) {
  return JSON.stringify({
    schema: "2.0",
    config: { streaming_mode: streaming, update_multi: true },
    body: { elements: [{ tag: "markdown", element_id: "answer", content: text }] },
  });
}

async function checked(call) {
  const answer = await call;
  if (answer.code !== 0) say("refused", { code: answer.code, msg: answer.msg });
  return answer.data;
}

function reply(messageId, msgType, content) {
  const request = { path: { message_id: messageId }, data: { msg_type: msgType, content } };
  return checked(client.im.v1.message.reply(request));
}

async function stream(messageId) {
  const made = await checked(
    client.cardkit.v1.card.create({ data: { type: "card_json", data: card("...", true) } }),
  );
  const path = { card_id: made.card_id };
  await reply(messageId, "interactive", JSON.stringify({ type: "card", data: path }));
  let sequence = 0;
  for (const content of ["一", "一二", "一二三"]) {
    sequence += 1;
    const at = { ...path, element_id: "answer" };
    await checked(client.cardkit.v1.cardElement.content({ path: at, data: { content, sequence } }));
  }
  const settings = JSON.stringify({ config: { streaming_mode: false } });
  await checked(client.cardkit.v1.card.settings({ path, data: { settings, sequence: 4 } }));
  const last = { type: "card_json", data: card("一二三。", false) };
  await checked(client.cardkit.v1.card.update({ path, data: { card: last, sequence: 5 } }));
}

async function onMessage(data) {
  const message = data.message;
  const text = JSON.parse(message.content).text;
  say("received", { text, message_id: message.message_id, sender: data.sender.sender_id.open_id });
  if (text.startsWith("text")) {
    await reply(message.message_id, "text", JSON.stringify({ text: `got ${text}` }));
    const path = { message_id: message.message_id };
    await checked(
      client.im.v1.messageReaction.create({ path, data: { reaction_type: { emoji_type: "OK" } } }),
    );
  } else if (text.startsWith("patch")) {
    const sent = await reply(message.message_id, "interactive", card("before", false));
    const path = { message_id: sent.message_id };
    await checked(client.im.v1.message.patch({ path, data: { content: card("after", false) } }));
  } else if (text.startsWith("stream")) {
    await stream(message.message_id);
  }
  say("done", { text });
}

const dispatcher = new lark.EventDispatcher({}).register({
  "im.message.receive_v1": onMessage,
  "card.action.trigger": async (data) => {
    say("clicked", { value: data.action.value });
    return { toast: { type: "success", content: "ok" } };
  },
});
new lark.WSClient(options).start({ eventDispatcher: dispatcher });
