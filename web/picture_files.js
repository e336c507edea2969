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

/** Let the browser save a picture, as a click on a link does. */
export function savePicture(item) {
  const link = document.createElement("a");
  link.href = item.url;
  link.download = fileName(item);
  link.click();
}

/** Put a picture on the clipboard, as PNG. Rejects where the browser does not allow it, as on a page without https. */
export async function copyPicture(url) {
  const png = fetch(url).then((response) => response.blob()).then(asPng);
  await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
}

async function asPng(blob) {
  if (blob.type === "image/png") return blob;
  const picture = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
