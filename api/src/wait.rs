//! [`WaitExt`]: waits for the end of a chat without a stream.

use std::time::Duration;

use coze_api_client::{
    Client,
    types::{Chat, ChatStatus},
};
use coze_auth::ErrorKind;
use coze_wire::{CallOptions, Data, Operation};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::{
    Error, Reply, Result, SendExt,
    dispatch::{ChatIds, Dispatch, after},
    send::Configured,
};

/// The delay before the first poll. Coze asks for at most one poll per second.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_INTERVAL: Duration = Duration::from_secs(5);
/// The default deadline.
const DEADLINE: Duration = Duration::from_secs(600);
/// How long the cancellation at the deadline may take, beyond the deadline.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts or continues a chat and waits for its end.
pub trait WaitExt: Operation<Answer = Data<Chat>> {
    /// Sends the operation, then polls the chat until it has ended or requires the output of tools.
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

/// A chat and the options of the wait: see [`WaitExt::and_wait`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Wait<O> {
    operation: O,
    deadline: Duration,
    cancels: bool,
}

impl<O: Operation<Answer = Data<Chat>>> Wait<O> {
    /// The deadline for the whole wait; 10 minutes by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Cancels the chat at the deadline, which may last 10 seconds more. By default the chat continues.
    pub fn cancel_at_deadline(mut self) -> Self {
        self.cancels = true;
        self
    }

    /// Sends the operation and polls: after one second, then at growing intervals of up to five. The returned chat has
    /// one of the statuses `completed`, `failed` (see its `last_error`), `canceled` and `requires_action` (see its
    /// `required_action`). The operation's own options, such as [`timeout`](SendExt::timeout), apply to the polls too.
    ///
    /// # Errors
    ///
    /// - [`Timeout`](coze_auth::ErrorKind::Timeout) at the deadline, with the ids of the chat and its conversation.
    /// - As [`SendExt::send`]. Retryable errors of polls are ignored until the deadline.
    pub async fn send(self) -> Result<Reply<Chat>> {
        let deadline = after(Instant::now(), self.deadline);
        let call = self.operation.into_call();
        let call = call.map_err(|why| crate::send::unbuilt(O::INFO, &why))?;
        let dispatcher = call.dispatcher.clone();
        let options = call.options;
        let asked = ChatIds::of(&call.request);
        let sent = timeout_at(deadline, crate::dispatch::send::<Data<Chat>>(call)).await;
        let mut chat = sent.map_err(|_| {
            let what = "the chat did not begin before the deadline";
            let error = coze_auth::Error::new(ErrorKind::Timeout, what);
            let error = Error::from(error).in_operation(O::INFO);
            error
                .of_chat(asked.chat, asked.conversation)
                .with_unknown_fate()
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
        let retrieve = Configured::new(retrieve, options);
        // Why the status is unknown: the error of the last poll.
        let mut failed = None;
        let mut interval = FIRST_INTERVAL;
        while !is_settled(&chat) {
            let next = Instant::now() + interval;
            sleep_until(next.min(deadline)).await;
            if next >= deadline {
                break;
            }
            interval = interval.mul_f64(1.5).min(LONGEST_INTERVAL);
            match timeout_at(deadline, retrieve.clone().send()).await {
                Ok(Ok(now)) => {
                    chat = now;
                    failed = None;
                }
                // Retried until the deadline.
                Ok(Err(error)) if error.is_retryable() => failed = Some(error.to_string()),
                Ok(Err(error)) => return Err(about(error)),
                Err(_) => {
                    failed = failed.or_else(|| Some("there was no response in time".to_owned()));
                    break;
                }
            }
        }
        if is_settled(&chat) {
            return Ok(chat);
        }
        let is_known = failed.is_none();
        let status = match failed {
            None => "the chat did not end before the deadline".to_owned(),
            Some(why) => {
                format!("the status of the chat at the deadline is unknown: {why}")
            }
        };
        let what = match self.cancels {
            true => format!("{status}, and {}", cancel(&client, &chat, options).await),
            false if is_known => format!("{status}, and is still running"),
            false => status,
        };
        let error = Error::from(coze_auth::Error::new(ErrorKind::Timeout, what));
        Err(about(error.with_log_id(chat.log_id())))
    }
}

/// Cancels a chat, and says whether it was canceled.
async fn cancel(client: &Client, chat: &Chat, options: CallOptions) -> String {
    let cancel = client.chat().cancel();
    let cancel = cancel
        .conversation_id(&chat.conversation_id)
        .chat_id(&chat.id);
    match timeout(CANCEL_TIMEOUT, Configured::new(cancel, options).send()).await {
        Ok(Ok(_)) => "it was canceled".to_owned(),
        Ok(Err(error)) => format!("it was not canceled: {error}"),
        Err(_) => format!("nothing within {CANCEL_TIMEOUT:?} says whether it was canceled"),
    }
}

/// Whether the chat has ended or requires an action of the caller.
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
