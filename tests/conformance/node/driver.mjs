// Runs the flows of the official Node SDK against the mock: see ../README.md for what a driver is.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import {
  APIError,
  AuthenticationError,
  CozeAPI,
  getDeviceCode,
  getDeviceToken,
  getJWTToken,
  getPKCEAuthenticationUrl,
  getPKCEOAuthToken,
  getWebAuthenticationUrl,
  getWebOAuthToken,
  refreshOAuthToken,
} from "@coze/api";

const config = JSON.parse(process.env.COZE_CONFORMANCE);
const { inputs, coze_api_base: baseURL } = config;
const apps = Object.fromEntries(config.apps.map((app) => [app.client_type, app]));
const at = (type) => ({ baseURL, clientId: apps[type].client_id });

/** The tokens of the sign-ins, and what was created, for the flows that follow them. */
const signedIn = {};

/** The SDK has no way to do it. */
class Lacks extends Error {}

// The person's part, played through the mock's control endpoints.

async function control(path, body) {
  const response = await fetch(config.control + path, {
    method: body ? "POST" : "GET",
    headers: { "content-type": "application/json" },
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(10_000),
  });
  check(response.ok, `control endpoint ${path}: HTTP ${response.status}`);
  return response.json();
}

/** Opens the authorize page and approves: the code that the browser comes back with. */
async function approve(url) {
  const { callback } = await control("authorize", { url });
  const query = new URL(callback).searchParams;
  check(query.get("state") === inputs.state, "the callback has another state");
  return query.get("code");
}

/** Confirms the user code as soon as one poll was told to go on. */
async function approveAfterAPendingPoll(userCode, since) {
  const deadline = Date.now() + 20_000;
  while (Date.now() < deadline) {
    const { requests } = await control(`requests?since=${since}`);
    if (requests.some(({ outcome }) => outcome.answered?.error === "authorization_pending")) {
      await control("device/approve", { user_code: userCode });
      return;
    }
    await sleep(100);
  }
}

// The flows. Each returns what it did, in words, and the access token that came of it.

function check(condition, otherwise) {
  if (!condition) throw new Error(otherwise);
}

async function raisedBy(kind, call) {
  try {
    await call();
  } catch (error) {
    if (error instanceof kind) return error;
    throw error;
  }
  throw new Error(`there was no ${kind.name}`);
}

async function web() {
  const { redirect_uri: redirectUrl, state } = inputs;
  const code = await approve(getWebAuthenticationUrl({ ...at("web"), redirectUrl, state }));
  const clientSecret = apps.web.client_secret;
  signedIn.web = await getWebOAuthToken({ ...at("web"), redirectUrl, code, clientSecret });
  return ["code exchanged", signedIn.web.access_token];
}

async function pkce() {
  const { redirect_uri: redirectUrl, state } = inputs;
  const { url, codeVerifier } = await getPKCEAuthenticationUrl({ ...at("pkce"), redirectUrl, state });
  const code = await approve(url);
  signedIn.pkce = await getPKCEOAuthToken({ ...at("pkce"), redirectUrl, code, codeVerifier });
  return ["code exchanged", signedIn.pkce.access_token];
}

async function refresh(type) {
  const old = signedIn[type].refresh_token;
  const clientSecret = apps[type].client_secret;
  const redeem = () => refreshOAuthToken({ ...at(type), refreshToken: old, clientSecret });
  const next = await redeem();
  check(next.refresh_token && next.refresh_token !== old, "there is no new refresh token");
  const error = await raisedBy(APIError, redeem);
  check(error.rawError?.error_code === "invalid_grant", `another error: ${error.message}`);
  signedIn[type] = next;
  const kind = error.constructor.name;
  return [`refreshed; the old refresh token gives ${kind}, invalid_grant in rawError`, next.access_token];
}

async function device() {
  const started = await getDeviceCode(at("device"));
  const { ever } = await control("requests");
  const polling = getDeviceToken({ ...at("device"), deviceCode: started.device_code, poll: true });
  [signedIn.device] = await Promise.all([polling, approveAfterAPendingPoll(started.user_code, ever)]);
  return ["polled until approved", signedIn.device.access_token];
}

async function deviceRefusal() {
  const started = await getDeviceCode(at("device"));
  await control("device/deny", { user_code: started.user_code });
  const poll = () => getDeviceToken({ ...at("device"), deviceCode: started.device_code, poll: true });
  const error = await raisedBy(APIError, poll);
  check(error.rawError?.error === "access_denied", `another error: ${error.message}`);
  return [`${error.constructor.name}, access_denied in rawError`];
}

const signing = {
  baseURL,
  appId: apps.jwt.client_id,
  keyid: apps.jwt.public_key_id,
  privateKey: apps.jwt.private_key,
  // The SDK leaves it to the caller, who reads the documentation: the host, without a port.
  aud: new URL(baseURL).hostname,
};

async function jwt(what, options) {
  const token = await getJWTToken({ ...signing, ...options });
  return [what, token.access_token];
}

const twoBots = {
  account_permission: { permission_list: ["Connector.botChat"] },
  attribute_constraint: { connector_bot_chat_attribute: { bot_id_list: inputs.bot_ids } },
};

/** An option that the SDK does not know changes nothing: the request goes to the plain path. */
async function jwtEnterprise() {
  const { ever } = await control("requests");
  await jwt("", { enterpriseId: inputs.enterprise_id });
  const [request] = (await control(`requests?since=${ever}`)).requests;
  check(!request.path.includes("enterprise"), "there is an option enterpriseId now: let this driver use it");
  throw new Lacks("JWTTokenConfig has no option for it; enterpriseId is ignored, and the plain token path is called");
}

const apiWith = (token) => new CozeAPI({ baseURL, token });

async function apiCall() {
  const token = signedIn.web.access_token;
  const user = await apiWith(token).users.me();
  check(user.user_name, "the answer has no user name");
  return ["users.me", token];
}

const api = () => apiWith(config.access_tokens[0]);
const question = { role: "user", type: "question", content: inputs.question, content_type: "text" };

/** What every chat of this driver is about. */
const chat = { bot_id: inputs.bot_ids[0], user_id: inputs.user_id, additional_messages: [question] };

async function createConversation() {
  const created = await api().conversations.create({ bot_id: inputs.bot_ids[0], messages: [question] });
  check(created.id, "the conversation has no id");
  signedIn.conversation = created.id;
  return ["conversations.create"];
}

async function createChat() {
  const { chat: done, messages } = await api().chat.createAndPoll(chat);
  check(done.status === "completed", `the chat is ${done.status}`);
  check(messages.some(({ type, content }) => type === "answer" && content), "there is no answer");
  return ["chat.createAndPoll"];
}

async function streamChat() {
  let [said, whole] = ["", null];
  for await (const { event, data } of api().chat.stream({ ...chat, conversation_id: signedIn.conversation })) {
    if (event === "conversation.message.delta") said += data.content;
    if (event === "conversation.message.completed" && data.type === "answer") whole = data.content;
  }
  check(whole && said === whole, `the parts are ${said}, the message is ${whole}`);
  signedIn.answer = whole;
  return ["chat.stream"];
}

async function listMessages() {
  const { data } = await api().conversations.messages.list(signedIn.conversation);
  const contents = data.map(({ content }) => content);
  for (const content of [inputs.question, signedIn.answer]) {
    check(contents.includes(content), `${content} is not in ${contents}`);
  }
  return ["conversations.messages.list"];
}

/** What a caller gets to see of a stream that the mock was told to send otherwise. */
async function stream() {
  const seen = { events: [], error: null };
  try {
    for await (const { event } of api().chat.stream(chat)) seen.events.push(event);
  } catch (error) {
    const { message, code = null, logid } = error;
    seen.error = { type: error.constructor.name, message, code, log_id: Boolean(logid) };
  }
  return [JSON.stringify(seen)];
}

async function apiExpired() {
  const token = signedIn.web.access_token;
  await control("clock/advance", { seconds: inputs.until_expired });
  const error = await raisedBy(AuthenticationError, () => apiWith(token).users.me());
  check(error.code === 700012006, `another error: ${error.message}`);
  return ["AuthenticationError, code 700012006", token];
}

const flows = {
  web,
  web_refresh: () => refresh("web"),
  pkce,
  pkce_refresh: () => refresh("pkce"),
  device,
  device_refusal: deviceRefusal,
  device_refresh: () => refresh("device"),
  jwt: () => jwt("token for everything granted", {}),
  jwt_scope: () => jwt("token for two bots", { scope: twoBots }),
  jwt_session: () => jwt("token for one session", { sessionName: inputs.session_name }),
  jwt_account: () => jwt("token for another account", { accountId: inputs.account_id }),
  jwt_enterprise: jwtEnterprise,
  api_call: apiCall,
  create_conversation: createConversation,
  create_chat: createChat,
  stream_chat: streamChat,
  list_messages: listMessages,
  api_expired: apiExpired,
  stream,
};

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

async function run(flow) {
  try {
    const [detail, access_token] = await flows[flow]();
    say({ flow, outcome: "pass", detail, access_token });
  } catch (error) {
    const outcome = error instanceof Lacks ? "lacks" : "fail";
    const detail = outcome === "lacks" ? error.message : `${error?.constructor?.name}: ${error?.message}`;
    say({ flow, outcome, detail });
  }
}

const installed = readFileSync(new URL("node_modules/@coze/api/package.json", import.meta.url));
say({ sdk: "@coze/api", version: JSON.parse(installed).version });
for await (const line of createInterface({ input: process.stdin })) {
  await run(line.trim());
}
process.exit(0);
