// Watches a stream by WHEP with werift, a WebRTC stack in TypeScript, until it has seen so many pictures; then leaves.
//
//   node whep_viewer.mjs FOLDER URL h264|vp8 PICTURES      FOLDER has werift in its node_modules
//
// Prints a line of JSON: what it received, and the statuses of its requests.

import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";

const [folder, url, codec, wanted] = process.argv.slice(2);
const werift = createRequire(path.join(folder, "/"))("werift");
const { RTCPeerConnection, H264RtpPayload, Vp8RtpPayload, OpusRtpPayload, useH264, useVP8, useOPUS } = werift;
const [use, Payload] = codec === "h264" ? [useH264, H264RtpPayload] : [useVP8, Vp8RtpPayload];

const seen = { packets: 0, pictures: 0, keyPictures: 0, firstIsKey: null, sounds: 0, statuses: [] };
const peer = new RTCPeerConnection({ codecs: { video: [use()], audio: [useOPUS()] } });
peer.addTransceiver("video", { direction: "recvonly" });
peer.addTransceiver("audio", { direction: "recvonly" });

const done = new Promise((resolve) => {
  let key = false;
  let depacketizing;
  peer.onTrack.subscribe((track) => {
    track.onReceiveRtp.subscribe((packet) => {
      if (track.kind === "audio") {
        seen.sounds += OpusRtpPayload.deSerialize(packet.payload).payload.length > 0;
        return;
      }
      const payload = Payload.deSerialize(packet.payload, depacketizing);
      depacketizing = payload.fragment;
      seen.packets += 1;
      key ||= payload.isKeyframe;
      if (!packet.header.marker) return;
      seen.pictures += 1;
      seen.firstIsKey ??= key;
      seen.keyPictures += key;
      key = false;
      if (seen.pictures >= Number(wanted)) resolve();
    });
  });
});

await peer.setLocalDescription(await peer.createOffer());
const headers = { "Content-Type": "application/sdp" };
const answer = await fetch(url, { method: "POST", headers, body: peer.localDescription.sdp });
seen.statuses.push(answer.status);
if (answer.ok) {
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  await done;
  const left = await fetch(new URL(answer.headers.get("location"), url), { method: "DELETE" });
  seen.statuses.push(left.status);
}
await peer.close();
console.log(JSON.stringify(seen));
process.exit();
