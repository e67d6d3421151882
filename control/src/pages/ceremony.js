// What the pages need of WebAuthn, and little else. Nothing happens by itself: a form's button begins its ceremony.
// What is done on load: what stands behind "#" of an enrolment link is put into its fields, and the time that a request
// still waits is counted down.
"use strict";

(() => {
  const decode = (text) =>
    Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (character) => character.charCodeAt(0));

  const encode = (buffer) => {
    let text = "";
    for (const byte of new Uint8Array(buffer)) text += String.fromCharCode(byte);
    return btoa(text).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  };

  const named = (list) => (list || []).map((entry) => ({ ...entry, id: decode(entry.id) }));

  // WebAuthn's JSON with base64url, as the API of the browser takes it.
  const creation = ({ publicKey }) => ({
    ...publicKey,
    challenge: decode(publicKey.challenge),
    user: { ...publicKey.user, id: decode(publicKey.user.id) },
    excludeCredentials: named(publicKey.excludeCredentials),
  });
  const request = ({ publicKey }) => ({
    ...publicKey,
    challenge: decode(publicKey.challenge),
    allowCredentials: named(publicKey.allowCredentials),
  });

  const answer = (credential) => {
    const { response } = credential;
    const common = {
      id: credential.id,
      rawId: encode(credential.rawId),
      type: credential.type,
      clientExtensionResults: credential.getClientExtensionResults(),
    };
    if (response.attestationObject) {
      return {
        ...common,
        response: {
          attestationObject: encode(response.attestationObject),
          clientDataJSON: encode(response.clientDataJSON),
        },
      };
    }
    return {
      ...common,
      response: {
        authenticatorData: encode(response.authenticatorData),
        clientDataJSON: encode(response.clientDataJSON),
        signature: encode(response.signature),
        userHandle: response.userHandle && response.userHandle.byteLength ? encode(response.userHandle) : null,
      },
    };
  };

  const advice = (error) => {
    switch (error.name) {
      case "NotAllowedError":
        return "No key answered, or it was cancelled. Try again when you are ready.";
      case "AbortError":
        return "Cancelled.";
      case "InvalidStateError":
        return "This key or passkey is enrolled already. Use another one.";
      case "NotSupportedError":
      case "ConstraintError":
        return "This device cannot do what is asked: use another key or device.";
      case "SecurityError":
        return "The browser does not trust this page's address or certificate: tell your administrator.";
      default:
        return "The browser could not do it: " + (error.message || error.name);
    }
  };

  const ask = async (form) => {
    const fields = Object.fromEntries(new FormData(form));
    delete fields.challenge;
    delete fields.credential;
    let reply;
    try {
      reply = await fetch(form.dataset.begin, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(fields),
        credentials: "same-origin",
        redirect: "error",
      });
    } catch {
      throw { said: "The service cannot be reached: check your network and try again." };
    }
    const begun = await reply.json().catch(() => ({}));
    if (!reply.ok || !begun.options) {
      throw { said: begun.error || "The service cannot do this now: try again." };
    }
    return begun;
  };

  const run = async (form, abort) => {
    const begun = await ask(form);
    const { signal } = abort;
    const credential =
      form.dataset.ceremony === "create"
        ? await navigator.credentials.create({ publicKey: creation(begun.options), signal })
        : await navigator.credentials.get({ publicKey: request(begun.options), signal });
    form.elements.challenge.value = begun.challenge;
    form.elements.credential.value = JSON.stringify(answer(credential));
    // What was typed has been sent once, and is not sent again.
    for (const field of form.querySelectorAll("input[type=password]")) field.disabled = true;
    form.submit();
  };

  for (const form of document.querySelectorAll("form[data-ceremony]")) {
    const button = form.querySelector("button[type=submit]");
    const cancel = form.querySelector("[data-cancel]");
    const status = form.querySelector("[data-status]");
    const alert = form.querySelector("[data-alert]");
    let abort = null;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (abort) return;
      alert.textContent = "";
      if (!window.PublicKeyCredential) {
        alert.textContent = "This browser knows neither security keys nor passkeys: use another one.";
        return;
      }
      abort = new AbortController();
      button.setAttribute("aria-disabled", "true");
      cancel.hidden = false;
      status.textContent = "Use your key or passkey now.";
      try {
        await run(form, abort);
        status.textContent = "One moment.";
      } catch (error) {
        status.textContent = "";
        alert.textContent = error.said || advice(error);
        button.removeAttribute("aria-disabled");
        button.focus();
        abort = null;
      }
      cancel.hidden = true;
    });
    cancel.addEventListener("click", () => abort && abort.abort());
  }

  // Back to a page that a ceremony left: it begins anew.
  window.addEventListener("pageshow", (event) => event.persisted && location.reload());

  const enrol = document.querySelector("[data-enrol] form");
  const fillFromLink = () => {
    const parts = location.hash.slice(1).split("/");
    if (!enrol || parts.length !== 2) return;
    // Out of the address bar and the history before anything else.
    history.replaceState(null, "", location.pathname);
    let user, token;
    try {
      [user, token] = parts.map(decodeURIComponent);
    } catch {
      return; // No link of ours.
    }
    enrol.elements.user.value = user || "";
    enrol.elements.token.value = token || "";
  };
  fillFromLink();
  // A link that is pasted while its page is open changes nothing but this.
  window.addEventListener("hashchange", fillFromLink);

  for (const left of document.querySelectorAll("[data-left]")) {
    const over = Date.now() + 1000 * Number(left.dataset.left);
    const tick = () => {
      const seconds = Math.max(0, Math.ceil((over - Date.now()) / 1000));
      left.textContent = seconds === 1 ? "1 second" : seconds + " seconds";
      if (seconds) {
        setTimeout(tick, 1000);
        return;
      }
      for (const form of document.querySelectorAll("main form")) form.hidden = true;
      document.querySelector("[data-over]").textContent = "The time is over. Run the program again.";
    };
    tick();
  }
})();
