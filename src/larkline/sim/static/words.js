// The page's own words, in Chinese and English.
const WORDS = {
  zh: {
    product: "消息", note: "飞书平台模拟器 · 仅本机", online: "机器人在线", offline: "机器人未连接",
    actingAs: "当前身份", switchTo: "切换为", empty: "还没有消息，打个招呼吧",
    emptyHint: "机器人收到后会在这里回复卡片", placeholder: "发消息给 {name}",
    threadPlaceholder: "回复话题", send: "发送", mention: "@机器人", members: "{n} 人",
    reply: "回复", thread: "话题", recall: "撤回", recalled: "{name} 撤回了一条消息",
    replyTo: "回复 {name}", replies: "{n} 条回复", bot: "机器人", p2p: "单聊", group: "群聊",
    edited: "已编辑", file: "文件", image: "图片", sticker: "表情", audio: "语音", media: "视频",
    card: "[卡片]", copy: "复制", today: "今天",
    cancel: "取消", confirm: "确认", theme: "外观", language: "English",
    lost: "与模拟器的连接断开，正在重连…", close: "关闭",
    c200340: "目标回调服务超时未响应，请稍后重试", c200671: "目标回调服务出错，请稍后重试",
    c200672: "目标回调服务返回了无法识别的内容", failed: "操作失败", unknown: "不支持的消息",
    themeLight: "浅色", themeDark: "深色", themeAuto: "跟随系统", jump: "查看话题",
  },
  en: {
    product: "Messages", note: "Feishu simulator · local only",
    online: "Bot online", offline: "Bot not connected", actingAs: "You are", switchTo: "Switch to",
    empty: "No messages yet. Say hello", emptyHint: "The bot's cards will appear here",
    placeholder: "Message {name}", threadPlaceholder: "Reply in thread", send: "Send",
    mention: "@bot", members: "{n} people", reply: "Reply", thread: "Thread", recall: "Recall",
    recalled: "{name} recalled a message", replyTo: "Reply to {name}", replies: "{n} replies",
    bot: "Bot", p2p: "Private", group: "Group", edited: "edited", file: "File", image: "Image",
    sticker: "Sticker", audio: "Audio", media: "Video", card: "[Card]", copy: "Copy",
    today: "Today", cancel: "Cancel", confirm: "OK",
    theme: "Appearance", language: "中文",
    lost: "Lost the simulator, reconnecting…", close: "Close",
    c200340: "The app did not answer in time. Try again later",
    c200671: "The app answered with an error. Try again later",
    c200672: "The app's answer could not be read", failed: "That did not work",
    unknown: "Unsupported message", themeLight: "Light", themeDark: "Dark", themeAuto: "System",
    jump: "Open thread",
  },
};

let language = localStorage.getItem("language")
  || (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

export function lang() { return language; }

export function setLang(next) {
  language = next;
  localStorage.setItem("language", next);
  document.documentElement.lang = next;
}

document.documentElement.lang = language;

export function say(key, values = {}) {
  return (WORDS[language][key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}
