// What mails say. Texts only: each function gives a subject and the text, and knows nothing of files or addresses.

/** An amount in minor units of a currency with two decimals: `€1,249.00`. */
export function money(minor, currency) {
  const symbol = { EUR: '€', USD: '$', GBP: '£' }[currency] ?? `${currency}\u00a0`;
  const whole = String(Math.floor(minor / 100)).replace(/\B(?=(\d{3})+$)/g, ',');
  return `${symbol}${whole}.${String(minor % 100).padStart(2, '0')}`;
}

const GREETING = 'Your Lagoon';

export function offer({ product, former, page, unsubscribe }) {
  const [now, before] = [money(product.price, product.currency), money(former, product.currency)];
  const percent = Math.floor((100 * (former - product.price)) / former);
  const less = percent >= 1 ? `, ${percent} % less than before` : '';
  const text = [
    'Hello,', '', `${product.name} is now ${now} instead of ${before}${less}.`, '', page, '', GREETING, '', '-- ',
    'You get this because you asked for our offers. To get no more of them:', unsubscribe, '',
  ];
  return { subject: `${now} instead of ${before}: ${product.name}`, text: text.join('\n') };
}

export function welcome({ shop, unsubscribe }) {
  const text = [
    'Hello,', '', 'From now on we write to you when something in the shop becomes cheaper, and about nothing else.', '', shop,
    '', GREETING, '', '-- ', 'If that was not you, or you have changed your mind:', unsubscribe, '',
  ];
  return { subject: 'You will hear of our offers', text: text.join('\n') };
}

export function orderPlaced({ order, name, lines, total, currency }) {
  const bought = lines.map((line) => `${line.quantity} × ${line.name}: ${money(line.price * line.quantity, currency)}`);
  const text = [
    `Hello${name ? ` ${name}` : ''},`, '', 'Thank you for your order. We have begun to pack it:', '', ...bought, '',
    `Together: ${money(total, currency)}`, '', 'We write again when it is on its way.', '', GREETING, '',
  ];
  return { subject: `Your order ${order}`, text: text.join('\n') };
}

export function orderShipped({ order, name, carrier, tracking }) {
  const way = [carrier && `It comes with ${carrier}.`, tracking && `You can follow it as ${tracking}.`].filter(Boolean);
  const text = [
    `Hello${name ? ` ${name}` : ''},`, '', `Your order ${order} is on its way to you.`, ...way, '', GREETING, '',
  ];
  return { subject: `Your order ${order} is on its way`, text: text.join('\n') };
}
