// A picture of the page as a file: saved, or on the clipboard.

const LONGEST_NAME = 80; // letters

/** The name of a picture's file: its own, or made of its text. */
export function fileName({ name, text }) {
  return name || `${safeName(text) || "picture"}.png`;
}

/** A text as a file's name on any system: without separators and control characters, and not too long. */
export function safeName(text) {
  const plain = String(text ?? "").replace(/[\u0000-\u001f\u007f<>:"/\\|?*]+/g, " ").replace(/\s+/g, " ").trim();
  return [...plain].slice(0, LONGEST_NAME).join("").replace(/[. ]+$/, "");
}

/** Let the browser save a picture under its name, as a click on a link does. Rejects where there is none any more. */
export async function savePicture(item) {
  const blob = await blobOf(item.url);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob); // with the server's address it would get the server's name
  link.download = fileName(item);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000).unref?.();
}

/** Put a picture on the clipboard, as PNG. Rejects where the browser does not allow it, as on a page without https. */
export async function copyPicture(url) {
  const { clipboard } = navigator;
  if (!clipboard?.write) throw new Error("this page may not write to the clipboard");
  const png = blobOf(url).then(asPng); // not waited for: some browsers allow the call only at once after the key
  await clipboard.write([new ClipboardItem({ "image/png": png })]);
}

/** What lies at a url. Data urls are read here: the server's rules may forbid the page to fetch them. */
async function blobOf(url) {
  const [, type, base64] = /^data:([^;,]+);base64,(.*)$/s.exec(url) ?? [];
  if (type) return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type });
  const response = await fetch(url);
  if (!response.ok) throw new Error(`the picture is gone: ${response.status}`);
  return response.blob();
}

async function asPng(blob) {
  if (blob.type === "image/png") return blob;
  const picture = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
