//! AWS Signature Version 4, for the two requests that make a bucket and a restricted credential.
//!
//! Source: AWS, "Signature Version 4 signing process".

use sha2::{Digest as _, Sha256};

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().into()
}

/// Returns the headers that sign a request without a query.
pub(super) fn sign(
    (key_id, secret): (&str, &str),
    service: &str,
    (method, host, path): (&str, &str, &str),
    body: &[u8],
) -> Vec<(String, String)> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (date, time) = date_time(now);
    let stamp = format!("{date}T{time}Z");
    let payload = hex::encode(Sha256::digest(body));
    let signed = "host;x-amz-content-sha256;x-amz-date";
    let canonical = format!(
        "{method}\n{path}\n\nhost:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{stamp}\n\n{signed}\n{payload}"
    );
    let scope = format!("{date}/us-east-1/{service}/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let mut key = hmac(format!("AWS4{secret}").as_bytes(), date.as_bytes());
    for part in ["us-east-1", service, "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    let signature = hex::encode(hmac(&key, text.as_bytes()));
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={signed}, Signature={signature}");
    [("Host", host), ("X-Amz-Date", &stamp), ("X-Amz-Content-Sha256", &payload), ("Authorization", &authorization)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

/// `YYYYMMDD` and `HHMMSS` of seconds since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date_time(seconds: u64) -> (String, String) {
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let time = seconds % 86_400;
    (format!("{year:04}{month:02}{day:02}"), format!("{:02}{:02}{:02}", time / 3600, time / 60 % 60, time % 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_dates() {
        assert_eq!(date_time(0), ("19700101".into(), "000000".into()));
        assert_eq!(date_time(951_782_400), ("20000229".into(), "000000".into()));
        assert_eq!(date_time(1_767_225_599), ("20251231".into(), "235959".into()));
    }

    #[test]
    fn test_hmac_is_rfc_4231_case_2() {
        let mac = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(hex::encode(mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
