"""Runs the flows of the official Python SDK against the mock: see ../README.md for what a driver is."""

import importlib.metadata
import inspect
import json
import os
import secrets
import sys
import threading
import time
import urllib.request
from urllib.parse import parse_qs, urlsplit

from cozepy import (
    Coze,
    CozeAPIError,
    CozePKCEAuthError,
    CozePKCEAuthErrorType,
    DeviceOAuthApp,
    JWTOAuthApp,
    Message,
    MessageType,
    PKCEOAuthApp,
    Scope,
    TokenAuth,
    WebOAuthApp,
)

CONFIG = json.loads(os.environ["COZE_CONFORMANCE"])
BASE = CONFIG["coze_api_base"]
INPUTS = CONFIG["inputs"]
APPS = {app["client_type"]: app for app in CONFIG["apps"]}

web = WebOAuthApp(APPS["web"]["client_id"], APPS["web"]["client_secret"], base_url=BASE)
pkce = PKCEOAuthApp(APPS["pkce"]["client_id"], base_url=BASE)
device = DeviceOAuthApp(APPS["device"]["client_id"], base_url=BASE)
jwt = JWTOAuthApp(
    APPS["jwt"]["client_id"],
    APPS["jwt"]["private_key"],
    APPS["jwt"]["public_key_id"],
    base_url=BASE,
)

# The tokens of the sign-ins, and what was created, for the flows that follow them.
signed_in = {}


class Lacks(Exception):
    """The SDK has no way to do it."""


# The person's part, played through the mock's control endpoints.


def control(path, body=None):
    request = urllib.request.Request(
        CONFIG["control"] + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def approve(url):
    """Opens the authorize page and approves: the code that the browser comes back with."""
    callback = control("authorize", {"url": url})["callback"]
    query = parse_qs(urlsplit(callback).query)
    check(query.get("state") == [INPUTS["state"]], "the callback has another state")
    return query["code"][0]


def approve_after_a_pending_poll(user_code):
    """Confirms the user code as soon as one poll was told to go on."""
    before = control("requests")["ever"]

    def wait():
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for request in control(f"requests?since={before}")["requests"]:
                answered = request["outcome"]
                if isinstance(answered, dict) and answered["answered"]["error"] == "authorization_pending":
                    control("device/approve", {"user_code": user_code})
                    return
            time.sleep(0.1)

    threading.Thread(target=wait, daemon=True).start()


# The flows. Each returns what it did, in words, and the access token that came of it.


def check(condition, otherwise):
    if not condition:
        raise AssertionError(otherwise)


def raised_by(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"there was no {kind.__name__}")


def run_web():
    url = web.get_oauth_url(INPUTS["redirect_uri"], state=INPUTS["state"])
    code = approve(url)
    signed_in["web"] = web.get_access_token(INPUTS["redirect_uri"], code)
    return "code exchanged", signed_in["web"].access_token


def run_pkce():
    # The verifier is the caller's; the method is the SDK's default.
    verifier = secrets.token_urlsafe(48)
    url = pkce.get_oauth_url(INPUTS["redirect_uri"], verifier, state=INPUTS["state"])
    code = approve(url)
    signed_in["pkce"] = pkce.get_access_token(INPUTS["redirect_uri"], code, verifier)
    return "code exchanged", signed_in["pkce"].access_token


def refresh(app, flow):
    old = signed_in[flow].refresh_token
    new = app.refresh_access_token(old)
    check(new.refresh_token not in ("", old), "there is no new refresh token")
    # The word invalid_grant is nowhere in the exception: the SDK keeps the message only.
    error = raised_by(CozeAPIError, lambda: app.refresh_access_token(old))
    check("refresh token" in error.msg, f"another error: {error}")
    signed_in[flow] = new
    return f"refreshed; the old refresh token gives CozeAPIError, code {error.code}", new.access_token


def run_device():
    started = device.get_device_code()
    approve_after_a_pending_poll(started.user_code)
    signed_in["device"] = device.get_access_token(started.device_code, poll=True)
    return "polled until approved", signed_in["device"].access_token


def run_device_refusal():
    started = device.get_device_code()
    control("device/deny", {"user_code": started.user_code})
    error = raised_by(
        CozePKCEAuthError,
        lambda: device.get_access_token(started.device_code, poll=True),
    )
    check(error.error == CozePKCEAuthErrorType.ACCESS_DENIED, f"another error: {error}")
    return "CozePKCEAuthError, ACCESS_DENIED", None


def run_jwt():
    return "token for everything granted", jwt.get_access_token().access_token


def run_jwt_scope():
    scope = Scope.build_bot_chat(INPUTS["bot_ids"])
    return "token for two bots", jwt.get_access_token(scope=scope).access_token


def run_jwt_session():
    token = jwt.get_access_token(session_name=INPUTS["session_name"])
    return "token for one session", token.access_token


def without_argument(name):
    arguments = inspect.signature(JWTOAuthApp.get_access_token).parameters
    check(name not in arguments, f"there is an argument {name} now: let this driver use it")
    raise Lacks(f"JWTOAuthApp.get_access_token has no argument for it, only {', '.join(list(arguments)[1:])}")


def api_with(token):
    return Coze(auth=TokenAuth(token), base_url=BASE)


def run_api_call():
    token = signed_in["web"].access_token
    user = api_with(token).users.me()
    check(user.user_name, "the answer has no user name")
    return "users.me", token


def api():
    return api_with(CONFIG["access_tokens"][0])


def chat():
    """What every chat of this driver is about."""
    question = Message.build_user_question_text(INPUTS["question"])
    return {"bot_id": INPUTS["bot_ids"][0], "user_id": INPUTS["user_id"], "additional_messages": [question]}


def run_create_conversation():
    question = Message.build_user_question_text(INPUTS["question"])
    signed_in["conversation"] = api().conversations.create(bot_id=INPUTS["bot_ids"][0], messages=[question]).id
    check(signed_in["conversation"], "the conversation has no id")
    return "conversations.create", None


def run_create_chat():
    poll = api().chat.create_and_poll(**chat(), poll_timeout=30)
    check(poll.chat.status == "completed", f"the chat is {poll.chat.status}")
    check(any(m.type == MessageType.ANSWER and m.content for m in poll.messages), "there is no answer")
    return "chat.create_and_poll", None


def run_stream_chat():
    said, whole = "", None
    for event in api().chat.stream(**chat(), conversation_id=signed_in["conversation"]):
        if event.event == "conversation.message.delta":
            said += event.message.content
        elif event.event == "conversation.message.completed" and event.message.type == MessageType.ANSWER:
            whole = event.message.content
    check(whole and said == whole, f"the parts are {said!r}, the message is {whole!r}")
    signed_in["answer"] = whole
    return "chat.stream", None


def run_list_messages():
    messages = api().conversations.messages.list(conversation_id=signed_in["conversation"])
    contents = [message.content for message in messages]
    for content in (INPUTS["question"], signed_in["answer"]):
        check(content in contents, f"{content!r} is not in {contents}")
    return "conversations.messages.list", None


def run_stream():
    """What a caller gets to see of a stream that the mock was told to send otherwise."""
    seen = {"events": [], "error": None}
    try:
        for event in api().chat.stream(**chat()):
            seen["events"].append(event.event.value)
    except Exception as error:
        seen["error"] = {
            "type": type(error).__name__,
            "message": str(error),
            "code": getattr(error, "code", None),
            "log_id": bool(getattr(error, "logid", None)),
        }
    return json.dumps(seen), None


def run_api_expired():
    token = signed_in["web"].access_token
    control("clock/advance", {"seconds": INPUTS["until_expired"]})
    error = raised_by(CozeAPIError, api_with(token).users.me)
    check(error.code == 700012006, f"another error: {error}")
    return "CozeAPIError, code 700012006", token


FLOWS = {
    "web": run_web,
    "web_refresh": lambda: refresh(web, "web"),
    "pkce": run_pkce,
    "pkce_refresh": lambda: refresh(pkce, "pkce"),
    "device": run_device,
    "device_refusal": run_device_refusal,
    "device_refresh": lambda: refresh(device, "device"),
    "jwt": run_jwt,
    "jwt_scope": run_jwt_scope,
    "jwt_session": run_jwt_session,
    "jwt_account": lambda: without_argument("account_id"),
    "jwt_enterprise": lambda: without_argument("enterprise_id"),
    "api_call": run_api_call,
    "create_conversation": run_create_conversation,
    "create_chat": run_create_chat,
    "stream_chat": run_stream_chat,
    "list_messages": run_list_messages,
    "api_expired": run_api_expired,
    "stream": run_stream,
}


def say(line):
    print(json.dumps(line), flush=True)


def run(flow):
    try:
        detail, access_token = FLOWS[flow]()
        say({"flow": flow, "outcome": "pass", "detail": detail, "access_token": access_token})
    except Lacks as lacks:
        say({"flow": flow, "outcome": "lacks", "detail": str(lacks)})
    except Exception as error:  # whatever the SDK raises is a result
        say({"flow": flow, "outcome": "fail", "detail": f"{type(error).__name__}: {error}"})


say({"sdk": "cozepy", "version": importlib.metadata.version("cozepy")})
for line in sys.stdin:
    run(line.strip())
