// Opens pages in headless Chromium on a desk and on a phone, and prints what is wrong with them as JSON lines:
// sideways overflow and violations that axe finds. With PICTURES it leaves a screenshot of each page there.
// Usage: node pages.mjs TOOLS URL NAME=PATH...
import { createRequire } from "node:module";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [tools, base, ...pages] = process.argv.slice(2);
const require = createRequire(join(tools, "node_modules/"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const browser = await chromium.launchPersistentContext(mkdtempSync(join(tmpdir(), "pages-")), {
  executablePath: "/usr/bin/chromium",
  bypassCSP: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const page = await browser.newPage();
// A cart with something in it, made as a shopper would.
await page.goto(base + "/");
await page.locator("main a[href^='/product/']").first().click();
await page.locator("form[action='/cart/items'] button").click();
await page.waitForURL("**/cart");
for (const [device, width] of [["desk", 1280], ["phone", 360]]) {
  await page.setViewportSize({ width, height: 800 });
  for (const [name, path] of pages.map((page) => page.split(/=(.*)/))) {
    const response = await page.goto(base + path, { waitUntil: "networkidle" });
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => axe.run());
    const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.target).join(" ")}`);
    console.log(JSON.stringify({ name, device, status: response.status(), overflow, violations: found }));
    if (process.env.PICTURES) {
      await page.screenshot({ path: join(process.env.PICTURES, `${name}-${device}.png`), fullPage: false });
    }
  }
}
await browser.close();
