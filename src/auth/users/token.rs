//! Access tokens: short-lived JSON web tokens of one algorithm. Knows no users beyond what a token
//! says; whether it still counts is for the store to say.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};

const ISSUER: &str = "tollgate";
const TYPE: &str = "access";
/// A session ends this long after its login, however often its tokens are renewed.
pub const SESSION: Duration = Duration::from_hours(30 * 24);
/// What clocks of several instances may differ by.
const LEEWAY_SECONDS: u64 = 3;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    iss: String,
    typ: String,
    /// The user's id.
    sub: String,
    /// Seconds since 1970, as the other times.
    iat: u64,
    exp: u64,
    /// When the user logged in.
    auth_time: u64,
    /// The user's generation: tokens of an earlier one are void.
    #[serde(rename = "gen")]
    generation: i64,
    /// The login that it goes back to, which may have been ended since.
    #[serde(rename = "sid")]
    family: String,
    /// Makes two tokens of one second differ.
    jti: String,
}

impl Claims {
    /// The user's id.
    #[must_use]
    pub fn user(&self) -> Option<i64> {
        self.sub.parse().ok()
    }

    #[must_use]
    pub fn generation(&self) -> i64 {
        self.generation
    }

    /// The family of refresh tokens that its login began.
    #[must_use]
    pub fn family(&self) -> &str {
        &self.family
    }

    /// When the user logged in.
    #[must_use]
    pub fn login(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.auth_time.min(u64::from(u32::MAX)))
    }
}

/// Signs tokens and checks them.
pub struct AccessTokens {
    signing: EncodingKey,
    checking: DecodingKey,
    validation: Validation,
    life: Duration,
}

impl AccessTokens {
    /// `life` is that of one token.
    #[must_use]
    pub fn new(secret: &[u8], life: Duration) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        Self {
            signing: EncodingKey::from_secret(secret),
            checking: DecodingKey::from_secret(secret),
            validation,
            life,
        }
    }

    /// A token for a user who logged in at `login`, beginning `family`, and how long it is good for.
    ///
    /// # Errors
    /// `invalid_token` when the session is over.
    pub fn issue(
        &self,
        user: i64,
        generation: i64,
        (login, family): (SystemTime, &str),
    ) -> Result<(String, Duration), Error> {
        let now = SystemTime::now();
        let left = (login + SESSION).duration_since(now).unwrap_or_default();
        let life = self.life.min(left);
        if life.as_secs() == 0 {
            return Err(Error::new(
                Code::InvalidToken,
                "this session is over; log in again",
            ));
        }
        let claims = Claims {
            iss: ISSUER.to_owned(),
            typ: TYPE.to_owned(),
            sub: user.to_string(),
            iat: seconds(now),
            exp: seconds(now) + life.as_secs(),
            auth_time: seconds(login),
            generation,
            family: family.to_owned(),
            jti: format!("{:016x}", rand::random::<u64>()),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing)
            .map_err(|cause| {
                Error::new(Code::Internal, "the token could not be signed").because(cause)
            })?;
        Ok((token, life))
    }

    /// What a token of ours says, if it is one and has not expired.
    ///
    /// # Errors
    /// `invalid_token`.
    pub fn check(&self, token: &str) -> Result<Claims, Error> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.checking, &self.validation)
            .map_err(|cause| invalid().because(cause))?
            .claims;
        if claims.typ != TYPE {
            return Err(invalid().because("a token of another type"));
        }
        Ok(claims)
    }
}

/// Whether a text has the shape of a token, whoever made it.
#[must_use]
pub fn has_shape(text: &str) -> bool {
    // `eyJ` is `{"` in Base64: a header.
    text.starts_with("eyJ") && text.split('.').count() == 3
}

/// A token that is none of ours, expired or void.
pub fn invalid() -> Error {
    Error::new(
        Code::InvalidToken,
        "this token is not valid or no longer so; log in again",
    )
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const HOUR: Duration = Duration::from_hours(1);

    fn tokens() -> AccessTokens {
        AccessTokens::new(SECRET, HOUR)
    }

    fn good() -> Value {
        let now = seconds(SystemTime::now());
        json!({"iss": "tollgate", "typ": "access", "sub": "7", "iat": now, "exp": now + 60, "auth_time": now, "gen": 3, "sid": "f", "jti": "a"})
    }

    fn signed(header: &Header, claims: &Value, secret: &[u8]) -> String {
        jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    fn code(token: &str) -> Option<Code> {
        tokens().check(token).err().map(|error| error.code())
    }

    #[test]
    fn a_token_says_what_it_was_made_with() {
        let login = UNIX_EPOCH + Duration::from_secs(seconds(SystemTime::now()) - 100);
        let (token, life) = tokens().issue(7, 3, (login, "f")).unwrap();
        assert_eq!(life, HOUR);
        assert!(has_shape(&token));
        let claims = tokens().check(&token).unwrap();
        assert_eq!((claims.user(), claims.generation()), (Some(7), 3));
        assert_eq!((claims.login(), claims.family()), (login, "f"));
        assert_eq!(claims.exp - claims.iat, 3_600);
        assert_ne!(token, tokens().issue(7, 3, (login, "f")).unwrap().0);
    }

    #[test]
    fn a_session_ends_after_thirty_days() {
        let days = |days: u64| SystemTime::now() - Duration::from_hours(days * 24);
        let (_, life) = tokens()
            .issue(7, 3, (days(30) + Duration::from_secs(100), "f"))
            .unwrap();
        assert!(life <= Duration::from_secs(100) && life > Duration::from_secs(90));
        let error = tokens().issue(7, 3, (days(31), "f")).unwrap_err();
        assert_eq!(error.code(), Code::InvalidToken);
    }

    #[test]
    fn only_our_own_tokens_are_taken() {
        let header = Header::new(Algorithm::HS256);
        assert_eq!(code(&signed(&header, &good(), SECRET)), None);
        let wrong = Some(Code::InvalidToken);
        assert_eq!(code(&signed(&header, &good(), b"another secret")), wrong);
        for other in [Algorithm::HS384, Algorithm::HS512] {
            assert_eq!(code(&signed(&Header::new(other), &good(), SECRET)), wrong);
        }
        let now = seconds(SystemTime::now());
        for (name, value) in [
            ("typ", json!("refresh")),
            ("iss", json!("somebody")),
            ("exp", json!(now - 10)),
            ("exp", json!("never")),
            ("aud", json!("another")),
            ("gen", json!("3")),
        ] {
            let mut claims = good();
            claims[name] = value;
            assert_eq!(code(&signed(&header, &claims, SECRET)), wrong, "{name}");
        }
        for name in ["typ", "iss", "exp", "sub", "gen", "auth_time"] {
            let mut claims = good();
            claims.as_object_mut().unwrap().remove(name);
            assert_eq!(code(&signed(&header, &claims, SECRET)), wrong, "no {name}");
        }
    }

    #[test]
    fn unsigned_and_changed_tokens_are_refused() {
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let coded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let token = signed(&Header::new(Algorithm::HS256), &good(), SECRET);
        let signature = token.rsplit('.').next().unwrap();
        for alg in ["none", "None", "NONE", "RS256", "ES256", "EdDSA", ""] {
            let head = coded(&json!({"alg": alg, "typ": "JWT"}));
            for signature in ["", signature] {
                let forged = format!("{head}.{}.{signature}", coded(&good()));
                assert_eq!(code(&forged), Some(Code::InvalidToken), "{alg}");
            }
        }
        let mut other = good();
        other["sub"] = json!("8");
        let head = token.split('.').next().unwrap();
        let forged = format!("{head}.{}.{signature}", coded(&other));
        assert_eq!(code(&forged), Some(Code::InvalidToken));
        for text in [
            "",
            "a.b.c",
            "eyJ.eyJ.eyJ",
            &token[1..],
            &format!("{token}A"),
        ] {
            assert_eq!(code(text), Some(Code::InvalidToken), "{text}");
        }
    }
}
