//! How pages look: in wide and narrow windows, in light and dark, enlarged. Pictures of them are kept for people.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::chromium::Chromium;
use crate::own_network::say;

/// How a page is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A wide window in light colours.
    Light,
    /// A wide window in dark colours.
    Dark,
    /// 320 px, as on a small phone, or at 400 % on a desktop.
    Narrow,
    /// 1280 px at 200 %.
    Enlarged,
}

impl Look {
    /// Those of which pictures are kept.
    const KEPT: [Self; 3] = [Self::Light, Self::Dark, Self::Narrow];

    const fn width(self) -> u32 {
        match self {
            Self::Light | Self::Dark => 1000,
            Self::Narrow => 320,
            Self::Enlarged => 640,
        }
    }

    const fn pixels(self) -> u32 {
        match self {
            Self::Light | Self::Dark | Self::Narrow => 1,
            Self::Enlarged => 2,
        }
    }

    const fn scheme(self) -> &'static str {
        match self {
            Self::Light | Self::Narrow | Self::Enlarged => "light",
            Self::Dark => "dark",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
            Self::Narrow => "narrow",
            Self::Enlarged => "enlarged",
        }
    }
}

/// Where pictures are kept.
///
/// # Panics
/// If the test does not stand where cargo builds tests.
pub fn artefacts() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own file");
    test.ancestors().nth(3).expect("tests stand in TARGET/PROFILE/deps/").join("browser-artefacts")
}

impl Chromium {
    /// Sets the window and the colours.
    pub fn look(&self, look: Look, height: u32) {
        let metrics = json!({
            "width": look.width(), "height": height, "deviceScaleFactor": look.pixels(), "mobile": false,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let features = json!([{"name": "prefers-color-scheme", "value": look.scheme()}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// Keeps pictures of the whole page as `NAME-LOOK.png`; a page that does not fit the width of its window, or whose
    /// words do not with letters of twice the size, fails the test.
    ///
    /// # Panics
    /// If a picture cannot be kept, or the page is too wide.
    pub fn picture(&self, name: &str) {
        let artefacts = artefacts();
        std::fs::create_dir_all(&artefacts).expect("the artefacts' directory");
        for look in Look::KEPT {
            let height = self.fitting_height(look, name);
            self.look(look, height);
            let image = self.session().command("GET", "/screenshot", &Value::Null);
            let file = artefacts.join(format!("{name}-{}.png", look.name()));
            std::fs::write(&file, STANDARD.decode(image.as_str().unwrap_or_default()).expect("base64"))
                .expect("keeping a picture");
            say(&format!("picture: {}", file.display()));
        }
        let size = "document.documentElement.style.fontSize = arguments[0]";
        self.script(size, &json!(["200%"]));
        self.fitting_height(Look::Enlarged, name);
        self.script(size, &json!([""]));
        self.fitting_height(Look::Enlarged, name);
        self.look(Look::Light, 900);
    }

    /// How high the page is in this look, which it must fit by its width.
    fn fitting_height(&self, look: Look, name: &str) -> u32 {
        self.look(look, 600);
        let size = "const page = document.documentElement; \
             const wide = [...document.querySelectorAll('main *')].find((it) => it.getBoundingClientRect().right > innerWidth + 1 \
                 && !it.closest('pre')); \
             return [page.scrollWidth, page.scrollHeight, wide ? wide.outerHTML : '']";
        let size = self.script(size, &json!([]));
        let (width, height) = (size[0].as_u64().unwrap_or(0), size[1].as_u64().unwrap_or(0));
        assert!(
            width <= u64::from(look.width()) && size[2] == "",
            "{name} is {width} px wide: {look:?}, {}",
            size[2]
        );
        u32::try_from(height).unwrap_or(600).clamp(400, 8000)
    }
}
