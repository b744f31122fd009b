// The messages of README.md, for Node and for a browser.

const LARGEST = 1 << 20;
const cycle = (length, value) => Uint8Array.from({ length: LARGEST + 2 * length }, (_, at) => value(at % length));
const LETTERS = cycle(26, (at) => 97 + at);
const NUMBERS = cycle(256, (at) => (at * 7) & 255);
const ARROW = new TextEncoder().encode("→");

/** Mostly small, now and then up to 1 MiB. */
export function size(number) {
  if (number % 997 === 211) return LARGEST;
  if (number % 101 === 50) return 65500 + (number % 100);
  if (number % 13 === 0) return 0;
  if (number % 10 === 5) return 100 + (number % 60);
  return (number * 37) % 125;
}

/** Whether a message is text, and its bytes. */
export function message(number) {
  const text = number % 2 === 1;
  const [all, start] = text ? [LETTERS, number % 26] : [NUMBERS, number % 256];
  const bytes = all.slice(start, start + size(number));
  if (text && bytes.length >= 3) bytes.set(ARROW, bytes.length - 3);
  return { text, bytes };
}

/** Whether two arrays hold the same bytes. */
export function same(one, two) {
  return one.length === two.length && one.every((byte, at) => byte === two[at]);
}
