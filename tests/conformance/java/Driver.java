// Runs the flows of the official Java SDK against the mock: see ../README.md for what a driver is.

import com.coze.openapi.client.auth.DeviceAuthResp;
import com.coze.openapi.client.auth.GetJWTAccessTokenReq;
import com.coze.openapi.client.auth.GetPKCEAuthURLResp;
import com.coze.openapi.client.auth.OAuthToken;
import com.coze.openapi.client.auth.scope.Scope;
import com.coze.openapi.client.chat.CreateChatReq;
import com.coze.openapi.client.chat.model.ChatEventType;
import com.coze.openapi.client.chat.model.ChatPoll;
import com.coze.openapi.client.chat.model.ChatStatus;
import com.coze.openapi.client.connversations.CreateConversationReq;
import com.coze.openapi.client.connversations.message.ListMessageReq;
import com.coze.openapi.client.connversations.message.model.Message;
import com.coze.openapi.client.connversations.message.model.MessageType;
import com.coze.openapi.client.exception.AuthErrorCode;
import com.coze.openapi.client.exception.CozeApiException;
import com.coze.openapi.client.exception.CozeAuthException;
import com.coze.openapi.client.workspace.ListWorkspaceReq;
import com.coze.openapi.service.auth.DeviceOAuthClient;
import com.coze.openapi.service.auth.JWTOAuthClient;
import com.coze.openapi.service.auth.OAuthClient;
import com.coze.openapi.service.auth.PKCEOAuthClient;
import com.coze.openapi.service.auth.TokenAuth;
import com.coze.openapi.service.auth.WebOAuthClient;
import com.coze.openapi.service.service.CozeAPI;
import com.coze.openapi.service.utils.UserAgentInterceptor;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.URLDecoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;

public class Driver {
    static final ObjectMapper JSON = new ObjectMapper();
    static final HttpClient HTTP = HttpClient.newHttpClient();

    final JsonNode config;
    final JsonNode inputs;
    final String base;
    final WebOAuthClient web;
    final PKCEOAuthClient pkce;
    final DeviceOAuthClient device;
    final JWTOAuthClient jwt;

    /** The tokens of the sign-ins, for the refreshes and the API calls that follow them. */
    final Map<String, OAuthToken> signedIn = new HashMap<>();

    /** What was created, for the flows that follow. */
    String conversation;
    String answer;

    final Map<String, Callable<Result>> flows = new LinkedHashMap<>();

    /** What a flow did, in words, and the access token that came of it. */
    record Result(String detail, String accessToken) {}

    Driver(JsonNode config) throws Exception {
        this.config = config;
        inputs = config.get("inputs");
        base = config.get("coze_api_base").asText();
        JsonNode webApp = app("web");
        web = new WebOAuthClient.WebOAuthBuilder()
                .clientID(webApp.get("client_id").asText())
                .clientSecret(webApp.get("client_secret").asText())
                .baseURL(base)
                .build();
        pkce = new PKCEOAuthClient.PKCEOAuthBuilder()
                .clientID(app("pkce").get("client_id").asText())
                .baseURL(base)
                .build();
        device = new DeviceOAuthClient.DeviceOAuthBuilder()
                .clientID(app("device").get("client_id").asText())
                .baseURL(base)
                .build();
        JsonNode jwtApp = app("jwt");
        jwt = new JWTOAuthClient.JWTOAuthBuilder()
                .clientID(jwtApp.get("client_id").asText())
                .privateKey(jwtApp.get("private_key").asText())
                .publicKey(jwtApp.get("public_key_id").asText())
                .baseURL(base)
                .build();

        flows.put("web", this::web);
        flows.put("web_refresh", () -> refresh(web, "web"));
        flows.put("pkce", this::pkce);
        flows.put("pkce_refresh", () -> refresh(pkce, "pkce"));
        flows.put("device", this::device);
        flows.put("device_refusal", this::deviceRefusal);
        flows.put("device_refresh", () -> refresh(device, "device"));
        flows.put("jwt", () -> new Result("token for everything granted", jwt.getAccessToken().getAccessToken()));
        flows.put("jwt_scope", this::jwtScope);
        flows.put("jwt_session", this::jwtSession);
        flows.put("jwt_account", this::jwtAccount);
        flows.put("jwt_enterprise", this::jwtEnterprise);
        flows.put("api_call", this::apiCall);
        flows.put("create_conversation", this::createConversation);
        flows.put("create_chat", this::createChat);
        flows.put("stream_chat", this::streamChat);
        flows.put("list_messages", this::listMessages);
        flows.put("api_expired", this::apiExpired);
        flows.put("stream", this::stream);
    }

    JsonNode app(String clientType) {
        for (JsonNode app : config.get("apps")) {
            if (app.get("client_type").asText().equals(clientType)) {
                return app;
            }
        }
        throw new IllegalStateException("the mock has no " + clientType + " app");
    }

    // The person's part, played through the mock's control endpoints.

    JsonNode control(String path, Object body) throws Exception {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(config.get("control").asText() + path))
                .timeout(Duration.ofSeconds(10));
        if (body != null) {
            request.header("Content-Type", "application/json");
            request.POST(HttpRequest.BodyPublishers.ofString(JSON.writeValueAsString(body)));
        }
        HttpResponse<String> response = HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString());
        check(response.statusCode() == 200, "control endpoint " + path + ": HTTP " + response.statusCode());
        return JSON.readTree(response.body());
    }

    /** Opens the authorize page and approves: the code that the browser comes back with. */
    String approve(String url) throws Exception {
        String callback = control("authorize", Map.of("url", url)).get("callback").asText();
        Map<String, String> query = new HashMap<>();
        for (String pair : URI.create(callback).getRawQuery().split("&")) {
            String[] parts = pair.split("=", 2);
            query.put(parts[0], URLDecoder.decode(parts[1], StandardCharsets.UTF_8));
        }
        check(inputs.get("state").asText().equals(query.get("state")), "the callback has another state");
        return query.get("code");
    }

    /** Confirms the user code as soon as one poll was told to go on. */
    void approveAfterAPendingPoll(String userCode) throws Exception {
        long before = control("requests", null).get("ever").asLong();
        Thread person = new Thread(() -> {
            try {
                for (int i = 0; i < 200; i++) {
                    for (JsonNode request : control("requests?since=" + before, null).get("requests")) {
                        JsonNode error = request.at("/outcome/answered/error");
                        if (error.asText().equals("authorization_pending")) {
                            control("device/approve", Map.of("user_code", userCode));
                            return;
                        }
                    }
                    Thread.sleep(100);
                }
            } catch (Exception error) {
                System.err.println("the approval failed: " + error);
            }
        });
        person.setDaemon(true);
        person.start();
    }

    // The flows.

    static void check(boolean condition, String otherwise) {
        if (!condition) {
            throw new IllegalStateException(otherwise);
        }
    }

    static <E extends Exception> E raisedBy(Class<E> kind, Callable<?> call) throws Exception {
        try {
            call.call();
        } catch (Exception error) {
            if (kind.isInstance(error)) {
                return kind.cast(error);
            }
            throw error;
        }
        throw new IllegalStateException("there was no " + kind.getSimpleName());
    }

    String redirectURI() {
        return inputs.get("redirect_uri").asText();
    }

    Result web() throws Exception {
        String code = approve(web.getOAuthURL(redirectURI(), inputs.get("state").asText()));
        OAuthToken token = web.getAccessToken(code, redirectURI());
        signedIn.put("web", token);
        return new Result("code exchanged", token.getAccessToken());
    }

    Result pkce() throws Exception {
        GetPKCEAuthURLResp begun = pkce.genOAuthURL(redirectURI(), inputs.get("state").asText());
        String code = approve(begun.getAuthorizationURL());
        OAuthToken token = pkce.getAccessToken(code, redirectURI(), begun.getCodeVerifier());
        signedIn.put("pkce", token);
        return new Result("code exchanged", token.getAccessToken());
    }

    Result refresh(OAuthClient client, String flow) throws Exception {
        String old = signedIn.get(flow).getRefreshToken();
        OAuthToken next = client.refreshToken(old);
        check(next.getRefreshToken() != null && !next.getRefreshToken().equals(old), "there is no new refresh token");
        CozeAuthException error = raisedBy(CozeAuthException.class, () -> client.refreshToken(old));
        check(error.getCode().getValue().equals("invalid_grant"), "another error: " + error);
        signedIn.put(flow, next);
        return new Result(
                "refreshed; the old refresh token gives CozeAuthException, invalid_grant", next.getAccessToken());
    }

    Result device() throws Exception {
        DeviceAuthResp started = device.getDeviceCode();
        approveAfterAPendingPoll(started.getUserCode());
        OAuthToken token = device.getAccessToken(started.getDeviceCode(), true);
        signedIn.put("device", token);
        return new Result("polled until approved", token.getAccessToken());
    }

    Result deviceRefusal() throws Exception {
        DeviceAuthResp started = device.getDeviceCode();
        control("device/deny", Map.of("user_code", started.getUserCode()));
        CozeAuthException error = raisedBy(
                CozeAuthException.class, () -> device.getAccessToken(started.getDeviceCode(), true));
        String denied = AuthErrorCode.ACCESS_DENIED.getValue();
        check(error.getCode().getValue().equals(denied), "another error: " + error);
        return new Result("CozeAuthException, ACCESS_DENIED", null);
    }

    Result jwtScope() {
        List<String> bots = new ArrayList<>();
        inputs.get("bot_ids").forEach(bot -> bots.add(bot.asText()));
        Scope scope = Scope.buildBotChat(bots, List.of("Connector.botChat"));
        return new Result("token for two bots", jwt.getAccessToken(scope).getAccessToken());
    }

    Result jwtSession() {
        OAuthToken token = jwt.getAccessToken(inputs.get("session_name").asText());
        return new Result("token for one session", token.getAccessToken());
    }

    Result jwtAccount() {
        GetJWTAccessTokenReq request = GetJWTAccessTokenReq.builder()
                .accountID(inputs.get("account_id").asLong())
                .build();
        return new Result("token for another account", jwt.getAccessToken(request).getAccessToken());
    }

    Result jwtEnterprise() {
        GetJWTAccessTokenReq request = GetJWTAccessTokenReq.builder()
                .enterpriseID(inputs.get("enterprise_id").asText())
                .build();
        return new Result("token for an enterprise", jwt.getAccessToken(request).getAccessToken());
    }

    CozeAPI apiWith(String accessToken) {
        return new CozeAPI.Builder().baseURL(base).auth(new TokenAuth(accessToken)).build();
    }

    CozeAPI api() {
        return apiWith(config.at("/access_tokens/0").asText());
    }

    Message question() {
        return Message.buildUserQuestionText(inputs.get("question").asText());
    }

    /** What every chat of this driver is about. */
    CreateChatReq chat(String conversation) {
        return CreateChatReq.builder()
                .botID(inputs.at("/bot_ids/0").asText())
                .userID(inputs.get("user_id").asText())
                .conversationID(conversation)
                .messages(List.of(question()))
                .build();
    }

    Result createConversation() {
        CreateConversationReq request = CreateConversationReq.builder()
                .botID(inputs.at("/bot_ids/0").asText())
                .messages(List.of(question()))
                .build();
        conversation = api().conversations().create(request).getConversation().getId();
        check(conversation != null && !conversation.isEmpty(), "the conversation has no id");
        return new Result("conversations().create", null);
    }

    Result createChat() throws Exception {
        ChatPoll poll = api().chat().createAndPoll(chat(null), 30L);
        check(ChatStatus.COMPLETED.equals(poll.getChat().getStatus()), "the chat is " + poll.getChat().getStatus());
        check(poll.getMessages().stream().anyMatch(message -> MessageType.ANSWER.equals(message.getType())),
                "there is no answer");
        return new Result("chat().createAndPoll", null);
    }

    Result streamChat() {
        StringBuilder said = new StringBuilder();
        api().chat().stream(chat(conversation)).blockingForEach(event -> {
            if (ChatEventType.CONVERSATION_MESSAGE_DELTA.equals(event.getEvent())) {
                said.append(event.getMessage().getContent());
            }
            if (ChatEventType.CONVERSATION_MESSAGE_COMPLETED.equals(event.getEvent())
                    && MessageType.ANSWER.equals(event.getMessage().getType())) {
                answer = event.getMessage().getContent();
            }
        });
        check(said.toString().equals(answer), "the parts are " + said + ", the message is " + answer);
        return new Result("chat().stream", null);
    }

    Result listMessages() {
        ListMessageReq request = ListMessageReq.builder().conversationID(conversation).build();
        List<String> contents = new ArrayList<>();
        for (Message message : api().conversations().messages().list(request).getItems()) {
            contents.add(message.getContent());
        }
        for (String content : List.of(inputs.get("question").asText(), answer)) {
            check(contents.contains(content), content + " is not in " + contents);
        }
        return new Result("conversations().messages().list", null);
    }

    /** What a caller gets to see of a stream that the mock was told to send otherwise. */
    Result stream() throws Exception {
        List<String> events = new ArrayList<>();
        Map<String, Object> seen = new HashMap<>();
        seen.put("events", events);
        seen.put("error", null);
        api().chat().stream(chat(null)).blockingSubscribe(
                event -> events.add(event.getEvent().getValue()),
                error -> {
                    boolean isApi = error instanceof CozeApiException;
                    Map<String, Object> told = new HashMap<>();
                    told.put("type", error.getClass().getSimpleName());
                    told.put("message", String.valueOf(isApi ? ((CozeApiException) error).getMsg() : error.getMessage()));
                    told.put("code", isApi ? ((CozeApiException) error).getCode() : null);
                    told.put("log_id", isApi && ((CozeApiException) error).getLogID() != null);
                    seen.put("error", told);
                });
        return new Result(JSON.writeValueAsString(seen), null);
    }

    /** The SDK has no call for `users/me`. */
    int countWorkspaces(String accessToken) {
        return apiWith(accessToken).workspaces().list(ListWorkspaceReq.of(1, 10)).getItems().size();
    }

    Result apiCall() {
        String token = signedIn.get("web").getAccessToken();
        check(countWorkspaces(token) > 0, "the answer has no workspace");
        return new Result("workspaces().list", token);
    }

    Result apiExpired() throws Exception {
        String token = signedIn.get("web").getAccessToken();
        control("clock/advance", Map.of("seconds", inputs.get("until_expired").asLong()));
        RuntimeException error = raisedBy(RuntimeException.class, () -> countWorkspaces(token));
        check(error.getCause() instanceof CozeApiException, "another error: " + error);
        // Where the HTTP status is an error too, the SDK puts it in the code's place: Coze's 700012006 is lost.
        CozeApiException cause = (CozeApiException) error.getCause();
        check(cause.getCode() == 401, "another code: " + cause.getCode());
        return new Result("CozeApiException, code 401, as the cause of a " + error.getClass().getName(), token);
    }

    static void say(Map<String, Object> line) throws Exception {
        System.out.println(JSON.writeValueAsString(line));
        System.out.flush();
    }

    void run(String flow) throws Exception {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("flow", flow);
        try {
            Result result = flows.get(flow).call();
            line.put("outcome", "pass");
            line.put("detail", result.detail());
            line.put("access_token", result.accessToken());
        } catch (Exception error) {
            line.put("outcome", "fail");
            line.put("detail", error.toString());
        }
        say(line);
    }

    public static void main(String[] arguments) throws Exception {
        Driver driver = new Driver(JSON.readTree(System.getenv("COZE_CONFORMANCE")));
        say(Map.of("sdk", "com.coze:coze-api", "version", UserAgentInterceptor.VERSION));
        BufferedReader asked = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String flow = asked.readLine(); flow != null; flow = asked.readLine()) {
            driver.run(flow.strip());
        }
        // The SDK's threads would keep the program alive.
        System.exit(0);
    }
}
