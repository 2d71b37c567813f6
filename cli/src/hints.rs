//! What to do about an error: in English as `coze-auth` says, unless its cause is temporary; for the commonest mistakes also in Chinese.

use coze_auth::{Error, ErrorCode, ErrorKind, Flow};
use coze_wire::RATE_LIMIT;

use crate::failure::is_temporary;

/// The hints in English and in Chinese about a call of the API.
pub(crate) fn of_call(error: &coze_api::Error) -> (&'static str, Option<&'static str>) {
    if error.is_fate_unknown() {
        let in_chinese = "扣子可能已处理该请求：请勿直接重试，先用对话 ID 和会话 ID 查询对话，或列出该会话的消息";
        return (error.hint(), Some(in_chinese));
    }
    match temporary(error) {
        Some(hints) => hints,
        None => (error.hint(), in_chinese(error)),
    }
}

/// The hints in English and in Chinese.
pub(crate) fn of(error: &Error) -> (&'static str, Option<&'static str>) {
    temporary(error).unwrap_or_else(|| (error.hint(), in_chinese(error)))
}

/// The hints about a refusal whose cause may be temporary, whatever its code is.
fn temporary(error: &Error) -> Option<(&'static str, Option<&'static str>)> {
    if error.kind() != ErrorKind::Refused || error.needs_sign_in() || !is_temporary(error) {
        return None;
    }
    let is_rate_limit = error.status().is_some_and(|status| status.as_u16() == 429)
        || matches!(error.code(), Some(ErrorCode::Api(RATE_LIMIT)));
    Some(match is_rate_limit {
        true => (
            "too many requests; wait, then try again",
            Some("请求过于频繁，请稍后再试"),
        ),
        false => (
            "the server failed: try again later; if it happens again, quote the log id to Coze's support",
            Some("服务器出错，请稍后再试；如仍出现，请将 log id 提供给扣子技术支持"),
        ),
    })
}

/// The hint in Chinese, for the mistakes that have one.
fn in_chinese(error: &Error) -> Option<&'static str> {
    // The token of an app is not a user's.
    if error.needs_sign_in() && !matches!(error.flow(), Some(Flow::Jwt | Flow::Token)) {
        return Some("尚未登录或登录已失效，请运行 coze login 登录");
    }
    let is_by_oauth = matches!(error.code(), Some(code) if !matches!(code, ErrorCode::Api(_)));
    if error.is_token_refused() && !is_by_oauth {
        return Some(if error.has_renewed_token() {
            "新签发的令牌同样被拒绝，说明问题不在令牌：请检查 API 地址（应用及其令牌只属于 api.coze.com 或 api.coze.cn 之一）和所请求的资源，并确认没有代理修改 Authorization 请求头"
        } else {
            "访问令牌无效、已过期或已被撤销；同时请确认令牌与所访问的站点一致（coze.cn 与 coze.com 的令牌不能混用）"
        });
    }
    let says = |text: &str| {
        error
            .message()
            .is_some_and(|message| message.contains(text))
    };
    match (error.kind(), error.code(), error.flow()) {
        (_, Some(ErrorCode::InvalidClient), Some(Flow::Jwt)) if says("kid") => Some(
            "该站点未登记此公钥。一个应用只属于中国站（api.coze.cn）或国际站（api.coze.com）之一，请检查 COZE_API_BASE 或 coze_api_base",
        ),
        (_, Some(ErrorCode::InvalidClient), Some(Flow::Jwt)) => Some(
            "请检查应用 ID、私钥、公钥指纹（public_key_id）和 aud 是否正确，以及本机时间是否准确",
        ),
        (_, Some(ErrorCode::InvalidClient), _) => {
            Some("请检查应用 ID 和客户端密钥，并确认应用类型与所用的授权方式一致")
        }
        (_, Some(ErrorCode::AccessDenied), _) => Some("用户拒绝了授权；如系误操作，请重新登录"),
        (_, Some(ErrorCode::AccessDeny), _) => {
            Some("应用可能已被停用，或应用类型与授权方式不符；请到扣子控制台检查该应用")
        }
        (_, Some(ErrorCode::Api(4101)), _) => {
            Some("令牌没有访问该资源的权限：请检查令牌的权限点和工作空间范围")
        }
        (_, Some(ErrorCode::Api(4016)), _) => {
            Some("该会话已有进行中的对话：请等待其结束或取消它，或换一个会话")
        }
        (_, Some(ErrorCode::Api(4200)), _) => {
            Some("找不到该智能体：请检查 ID，并确认它已发布为 API 服务")
        }
        (ErrorKind::DeviceCodeExpired, ..) | (_, Some(ErrorCode::ExpiredToken), _) => {
            Some("用户码（user_code）已过期，请重新运行 coze login，并在有效期内确认")
        }
        (ErrorKind::Connect | ErrorKind::Timeout | ErrorKind::Interrupted, ..) => {
            Some("请检查网络、代理和 API 地址，然后重试")
        }
        (ErrorKind::Configuration, ..) => {
            Some("请按错误信息更正配置；完整的 coze_oauth_config.json 可从扣子控制台获取")
        }
        (ErrorKind::Store(_), ..) => Some("请检查磁盘空间、权限和连接，使存储恢复可用"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_not_signed_in_is_told_to_sign_in() {
        let hint = |kind| in_chinese(&Error::new(kind, "it failed"));
        let sign_in = hint(ErrorKind::NotSignedIn);
        assert!(sign_in.is_some_and(|hint| hint.contains("coze login")));
        // A private key that can't be used, two flows at once, a field that is misspelled: the message says which.
        let correct = hint(ErrorKind::Configuration);
        assert!(
            correct.is_some_and(|hint| hint.contains("请按错误信息") && !hint.contains("登录"))
        );
    }
}
