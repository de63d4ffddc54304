import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// `npm run dev` talks to a control plane on this machine; NM_API names another one, such as the mock's http://127.0.0.1:4010.
const api = process.env.NM_API ?? "http://127.0.0.1:3001";
const proxy = { "/api": { target: api, changeOrigin: true, ws: true } };

export default defineConfig({
  plugins: [react()],
  build: {
    target: "es2022",
    // Nothing inline: the server's content security policy allows only files of its own.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 800,
  },
  server: { host: "127.0.0.1", proxy },
  preview: { host: "127.0.0.1", proxy },
});
