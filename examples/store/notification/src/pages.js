// The pages of the box as text. Whatever comes from a mail or a query is escaped by `html`; there is no script.

const LOGO = raw(
  '<svg viewBox="0 0 32 32" width="30" height="30" aria-hidden="true"><path d="M16 3a13 13 0 1 0 12.2 8.5" fill="none" ' +
    'stroke="currentColor" stroke-width="4" stroke-linecap="round"/><circle cx="16" cy="16" r="4.4" class="dot"/></svg>',
);

function raw(text) {
  return { raw: text };
}

/** Text of HTML: what is put in is escaped, unless it was made by this very function. */
export function html(parts, ...values) {
  const written = values.flatMap((value, place) => [put(value), parts[place + 1]]);
  return raw([parts[0], ...written].join(''));
}

function put(value) {
  if (value === null || value === undefined || value === false) return '';
  if (Array.isArray(value)) return value.map(put).join('');
  return typeof value === 'object' && 'raw' in value ? value.raw : escape(String(value));
}

const ENTITIES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

function escape(text) {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character]);
}

function page(site, title, main) {
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>${title} · Lagoon</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="${site.path}/assets/mail.css?v=${site.version}">
</head>
<body>
<a class="skip" href="#main">Skip to content</a>
<header class="site">
  <div class="wrap bar">
    <a class="logo" href="/">${LOGO} Lagoon</a>
    <nav aria-label="Mail"><a href="${site.path || '/'}">All mails</a></nav>
  </div>
</header>
<main id="main" tabindex="-1"><div class="wrap">
${main}
</div></main>
<footer class="site"><div class="wrap">
  <p>Nothing leaves this machine: what the shop writes is put into this box.</p>
</div></footer>
</body>
</html>
`.raw;
}

export function list(site, { mails, total, to, page: number, pages, joined }) {
  const at = (page) => `${site.path || '/'}?${new URLSearchParams({ ...(to && { to }), page })}`;
  const title = to ? `Mails to “${to}”` : 'Mails';
  return page(site, title, html`
<h1>${title}</h1>
<p class="lead">${total === 0 ? 'None yet.' : total === 1 ? 'One mail.' : `${total} mails, the newest first.`}</p>
${joined && html`<p class="note" role="status">Done: offers go to that address from now on.</p>`}
<div class="columns">
<section aria-label="Mails">
  <search><form class="find" action="${site.path || '/'}" method="get">
    <label for="to">Recipient</label>
    <div class="row"><input id="to" name="to" type="search" value="${to}" maxlength="254" autocomplete="off">
    <button class="button" type="submit">Search</button></div>
  </form></search>
  <ol class="mails">${mails.map((mail) => html`
    <li><a href="${site.path}/mails/${mail.id}">
      <span class="subject">${mail.subject}</span>
      <span class="to">to ${mail.to}</span>
      <time datetime="${mail.date}">${readable(mail.date)}</time>
    </a></li>`)}
  </ol>
  ${pages > 1 && html`<nav class="pages" aria-label="Pages">
    ${number > 1 && html`<a href="${at(number - 1)}" rel="prev">Newer</a>`}
    <span>Page ${number} of ${pages}</span>
    ${number < pages && html`<a href="${at(number + 1)}" rel="next">Older</a>`}
  </nav>`}
</section>
<section class="join" aria-labelledby="join">
  <h2 id="join">Special offers</h2>
  <p>A mail whenever something becomes cheaper. Each has a link to end it.</p>
  <form action="${site.path}/subscribers" method="post">
    <label for="email">Address</label>
    <input id="email" name="email" type="email" required maxlength="254" autocomplete="email">
    <button class="button" type="submit">Send me offers</button>
  </form>
</section>
</div>`);
}

export function mail(site, { id, from, to, subject, date, text }) {
  return page(site, subject || 'No subject', html`
<article>
  <h1>${subject || 'No subject'}</h1>
  <dl class="head">
    <div><dt>From</dt><dd>${from}</dd></div>
    <div><dt>To</dt><dd>${to}</dd></div>
    <div><dt>Sent</dt><dd><time datetime="${date}">${readable(date)}</time></dd></div>
  </dl>
  <div class="text">${linked(text)}</div>
  <p class="quiet"><a href="${site.path}/mails/${id}.eml">As a file</a></p>
</article>`);
}

export function unsubscribe(site, { token, email }) {
  const main = email
    ? html`<h1>No more offers?</h1>
<p class="lead">We will not write to ${email} about offers any more.</p>
<form class="row" action="${site.path}/unsubscribe/${token}" method="post">
  <button class="button" type="submit">End offers</button>
</form>`
    : html`<h1>No more offers</h1>
<p class="lead">You are not on our list, and hear of our offers no more.</p>`;
  return page(site, 'Offers', main);
}

export function notice(site, status, detail) {
  return page(site, 'That did not work', html`<p class="code" aria-hidden="true">${status}</p>
<h1>That did not work</h1>
<p class="lead">${detail[0].toUpperCase() + detail.slice(1)}.</p>
<p><a href="${site.path || '/'}">All mails</a></p>`);
}

/** Addresses of the web become links. */
function linked(text) {
  const parts = text.split(/(https?:\/\/[^\s<>"]+)/);
  return parts.map((part, place) => (place % 2 ? html`<a href="${part}">${part}</a>` : part));
}

/** `21 Nov 2026, 22:00 UTC` */
function readable(date) {
  const shape = { day: 'numeric', month: 'short', year: 'numeric', hour: '2-digit', minute: '2-digit', timeZone: 'UTC' };
  return `${new Intl.DateTimeFormat('en-GB', shape).format(new Date(date))} UTC`;
}
