//! Waiting for a chat that is not streamed.

use std::time::Duration;

use coze_api_client::{
    Client,
    types::{Chat, ChatStatus},
};
use coze_auth::ErrorKind;
use coze_wire::{Data, Operation};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    Error, Reply, Result, SendExt,
    dispatch::{Dispatch, after, conversation_id},
};

/// The pause before the chat is looked at for the first time. Coze wants one look a second at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a chat is waited for, unless the caller says otherwise.
const DEADLINE: Duration = Duration::from_secs(600);

/// Starts a chat, or goes on with one, and waits until Coze has done its part.
pub trait WaitExt: Operation<Answer = Data<Chat>> {
    /// Sends it, then looks at the chat until it has ended, or waits for outputs of tools.
    ///
    /// ```no_run
    /// # async fn example(coze: coze_api::CozeApi) -> coze_api::Result<()> {
    /// use coze_api::{prelude::*, types::ChatStatus};
    ///
    /// let chat = coze.chat().create().bot_id("7379462189365198898").user_id("user_1").message("Hello");
    /// let chat = chat.and_wait().send().await?;
    /// match chat.status {
    ///     Some(ChatStatus::Completed) => {
    ///         let messages = coze.chat().list_messages();
    ///         let messages = messages.conversation_id(&chat.conversation_id).chat_id(&chat.id).send().await?;
    ///         for message in messages.iter() {
    ///             println!("{}", message.content);
    ///         }
    ///     }
    ///     Some(ChatStatus::RequiresAction) => println!("{:?}", chat.required_action),
    ///     _ => println!("{:?} {:?}", chat.status, chat.last_error),
    /// }
    /// # Ok(()) }
    /// ```
    fn and_wait(self) -> Wait<Self> {
        Wait {
            operation: self,
            deadline: DEADLINE,
            cancels: false,
        }
    }
}

impl<O: Operation<Answer = Data<Chat>>> WaitExt for O {}

/// A chat that is waited for: see [`WaitExt::and_wait`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Wait<O> {
    operation: O,
    deadline: Duration,
    cancels: bool,
}

impl<O: Operation<Answer = Data<Chat>>> Wait<O> {
    /// How long to wait in all; 10 minutes by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Cancels the chat when the deadline has passed. By default it goes on.
    pub fn cancel_at_deadline(mut self) -> Self {
        self.cancels = true;
        self
    }

    /// Sends the operation and waits: one second at first, then longer, up to five. The chat has one of the statuses `completed`,
    /// `failed` (see its `last_error`), `canceled` and `requires_action` (see its `required_action`).
    ///
    /// # Errors
    ///
    /// - [`Timeout`](coze_auth::ErrorKind::Timeout) at the deadline, with the ids of the chat and of its conversation.
    /// - As [`SendExt::send`]. What may pass is waited out.
    pub async fn send(self) -> Result<Reply<Chat>> {
        let deadline = after(Instant::now(), self.deadline);
        let call = self.operation.into_call();
        let call = call.map_err(|why| crate::send::unbuilt(O::INFO, &why))?;
        let dispatcher = call.dispatcher.clone();
        let conversation_id = conversation_id(&call.request);
        let sent = timeout_at(deadline, crate::dispatch::send::<Data<Chat>>(call)).await;
        let mut chat = sent.map_err(|_| {
            let what = "the chat did not begin before the deadline";
            let error = coze_auth::Error::new(ErrorKind::Timeout, what);
            let error = Error::from(error).in_operation(O::INFO);
            error.of_chat(None, conversation_id).with_unknown_fate()
        })??;
        let Some(dispatch) = dispatcher.clone().downcast::<Dispatch>() else {
            return Ok(chat);
        };
        let (chat_id, conversation_id) = (chat.id.clone(), chat.conversation_id.clone());
        let about =
            |error: Error| error.of_chat(Some(chat_id.clone()), Some(conversation_id.clone()));
        let client = Client::new(dispatch.api_base(), dispatcher);
        let retrieve = client.chat().retrieve();
        let retrieve = retrieve.conversation_id(&conversation_id).chat_id(&chat_id);
        let mut pause = FIRST_PAUSE;
        while !is_settled(&chat) {
            let next = Instant::now() + pause;
            sleep_until(next.min(deadline)).await;
            if next >= deadline {
                return Err(about(at_deadline(self.cancels, &client, &chat).await));
            }
            pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
            match timeout_at(deadline, retrieve.clone().send()).await {
                Ok(Ok(now)) => chat = now,
                // Retried until the deadline.
                Ok(Err(error)) if error.is_retryable() => {}
                Ok(Err(error)) => return Err(about(error)),
                Err(_) => return Err(about(at_deadline(self.cancels, &client, &chat).await)),
            }
        }
        Ok(chat)
    }
}

/// What is said at the deadline, once the chat is canceled if it is to be.
async fn at_deadline(cancels: bool, client: &Client, chat: &Reply<Chat>) -> Error {
    let cancel = client.chat().cancel();
    let cancel = cancel
        .conversation_id(&chat.conversation_id)
        .chat_id(&chat.id);
    let what = match cancels {
        false => "the chat did not end before the deadline, and goes on".to_owned(),
        true => match cancel.send().await {
            Ok(_) => "the chat did not end before the deadline, and was canceled".to_owned(),
            Err(error) => {
                format!("the chat did not end before the deadline, and was not canceled: {error}")
            }
        },
    };
    Error::from(coze_auth::Error::new(ErrorKind::Timeout, what)).with_log_id(chat.log_id())
}

/// Whether it is the caller's turn.
fn is_settled(chat: &Chat) -> bool {
    matches!(
        chat.status,
        Some(
            ChatStatus::Completed
                | ChatStatus::Failed
                | ChatStatus::Canceled
                | ChatStatus::RequiresAction
        )
    )
}
