//! What to do about the commonest mistakes, in Chinese. All other hints are those of `coze-auth`, in English.

use coze_auth::{Error, ErrorCode, ErrorKind, Flow};

/// The hint in Chinese, for the mistakes that have one.
pub(crate) fn in_chinese(error: &Error) -> Option<&'static str> {
    if error.needs_sign_in() {
        return Some("尚未登录，或登录已失效：请运行 coze login 重新登录");
    }
    let is_by_oauth = matches!(error.code(), Some(code) if !matches!(code, ErrorCode::Api(_)));
    if error.is_token_refused() && !is_by_oauth {
        return Some(
            "访问令牌无效、已过期或已被撤销；也请确认令牌与所访问的站点一致（coze.cn 与 coze.com 的令牌不能混用）",
        );
    }
    let says = |text: &str| {
        error
            .message()
            .is_some_and(|message| message.contains(text))
    };
    match (error.kind(), error.code(), error.flow()) {
        (_, Some(ErrorCode::InvalidClient), Some(Flow::Jwt)) if says("kid") => Some(
            "所访问的站点不认识这个公钥：应用只属于 api.coze.cn 或 api.coze.com 其中之一，请检查 coze_api_base（可用 coze doctor 自动判断）；若站点无误，请核对公钥指纹（public_key_id）",
        ),
        (_, Some(ErrorCode::InvalidClient), Some(Flow::Jwt)) => {
            Some("请检查应用 ID、私钥、公钥指纹（public_key_id）、aud 以及本机时间是否准确")
        }
        (_, Some(ErrorCode::InvalidClient), _) => {
            Some("请检查应用 ID 和客户端密钥，并确认应用类型与所用的授权方式一致")
        }
        (_, Some(ErrorCode::AccessDenied), _) => Some("用户拒绝了授权；如属误操作，请重新登录"),
        (_, Some(ErrorCode::AccessDeny), _) => {
            Some("应用可能已被停用，或应用类型与授权方式不符；请到扣子控制台检查该应用")
        }
        (_, Some(ErrorCode::Api(4101)), _) => {
            Some("令牌没有访问该资源的权限：请检查令牌的权限点和工作空间范围")
        }
        (_, Some(ErrorCode::Api(4200)), _) => {
            Some("找不到该智能体：请检查 ID，并确认它已发布为 API 服务")
        }
        (_, Some(ErrorCode::Api(4013)), _) => Some("请求过于频繁：请稍后再试"),
        (ErrorKind::DeviceCodeExpired, ..) | (_, Some(ErrorCode::ExpiredToken), _) => {
            Some("用户码已过期：请重新运行 coze login，并在有效时间内确认")
        }
        (ErrorKind::Configuration, ..) => Some(
            "请补全配置：设置环境变量，或从扣子控制台下载 coze_oauth_config.json 放到当前目录；私钥请使用控制台下载的 private_key.pem（以 BEGIN PRIVATE KEY 开头）",
        ),
        (ErrorKind::Connect | ErrorKind::Timeout | ErrorKind::Interrupted, ..) => {
            Some("请检查网络、代理和 API 地址，然后重试")
        }
        _ => None,
    }
}
