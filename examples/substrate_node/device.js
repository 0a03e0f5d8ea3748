// A device in another language: exact matter behind integer converters, spoken to by the substrate service.
// Run: node device.js PORT PROFILE.json PATH/TO/substrate.proto   (PROFILE.json: a profile file's tables as JSON)
'use strict';
const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [port, profilePath, protoPath] = process.argv.slice(2);
const profile = JSON.parse(fs.readFileSync(profilePath, 'utf8'));
const definition = loader.loadSync(path.resolve(protoPath), { keepCase: true, enums: String, defaults: true });
const service = grpc.loadPackageDefinition(definition).hyle.substrate.v1.Substrate.service;

const top = profile.adc.levels;
const unit = top / (profile.adc.full_scale * profile.dac.levels * profile.weights.levels);
const matter = new Map();
let owner = '';

function refusal(code, details) {
  return Object.assign(new Error(details), { code, details });
}

function integers(matrix) {
  if (matrix.format !== 'INT32' || matrix.data.length !== 4 * matrix.rows * matrix.cols) {
    throw refusal(grpc.status.INVALID_ARGUMENT, 'a matrix has the wrong length or format');
  }
  const copy = Uint8Array.from(matrix.data);
  return new Int32Array(copy.buffer);
}

function program(request) {
  const { rows, cols } = request.targets;
  if (!owner || request.owner !== owner) throw refusal(grpc.status.ABORTED, 'another program owns the device');
  if (request.tile >= profile.array.count || rows > profile.array.rows || cols > profile.array.cols) {
    throw refusal(grpc.status.INVALID_ARGUMENT, 'no such tile');
  }
  const targets = integers(request.targets);
  if (targets.some((level) => Math.abs(level) > profile.weights.levels)) {
    throw refusal(grpc.status.INVALID_ARGUMENT, 'a target is out of range');
  }
  matter.set(request.tile, { rows, cols, targets });
  return { residual: 0, seconds: 0 };
}

function apply(request) {
  const codes = integers(request.codes);
  const batch = request.codes.rows;
  const tiles = request.tiles.map((index) => matter.get(index));
  if (tiles.some((tile) => !tile || tile.rows !== request.codes.cols)) {
    throw refusal(grpc.status.INVALID_ARGUMENT, 'a tile is not programmed, or has other rows');
  }
  if (codes.some((code) => Math.abs(code) > profile.dac.levels)) {
    throw refusal(grpc.status.INVALID_ARGUMENT, 'a DAC code is out of range');
  }
  const width = tiles.reduce((sum, tile) => sum + tile.cols, 0);
  const out = new Int32Array(batch * width);
  for (let sample = 0; sample < batch; sample += 1) {
    let column = sample * width;
    for (const { rows, cols, targets } of tiles) {
      for (let col = 0; col < cols; col += 1) {
        let sum = 0;
        for (let row = 0; row < rows; row += 1) sum += codes[sample * rows + row] * targets[row * cols + col];
        out[column] = Math.max(-top, Math.min(top, Math.round(sum * unit)));
        column += 1;
      }
    }
  }
  return { codes: { rows: batch, cols: width, format: 'INT32', data: Buffer.from(out.buffer) } };
}

function unary(work) {
  return (call, done) => {
    try {
      done(null, work(call.request));
    } catch (error) {
      done(error.code === undefined ? refusal(grpc.status.INTERNAL, 'internal error') : error);
    }
  };
}

function applyStream(call) {
  let mine = false;
  const release = () => {
    if (mine) owner = '';
    mine = false;
  };
  call.on('data', (request) => {
    try {
      if (mine) {
        call.write(apply(request));
      } else if (!request.owner || owner) {
        throw refusal(grpc.status.ABORTED, 'another program owns the device');
      } else {
        owner = request.owner;
        mine = true;
        call.write({});
      }
    } catch (error) {
      release();
      call.emit('error', error.code === undefined ? refusal(grpc.status.INTERNAL, 'internal error') : error);
    }
  });
  call.on('end', () => {
    release();
    call.end();
  });
  call.on('cancelled', release);
}

const server = new grpc.Server({ 'grpc.max_receive_message_length': -1 });
server.addService(service, {
  Describe: unary(() => ({
    identity: 'node-example-1',
    profile: Buffer.from(JSON.stringify(profile)),
    tiles: profile.array.count,
    simulated: false,
  })),
  Health: unary(() => ({ readings: { connected: 1, uptime_s: process.uptime() } })),
  Program: unary(program),
  Apply: applyStream,
});
server.bindAsync(`127.0.0.1:${port}`, grpc.ServerCredentials.createInsecure(), (error, bound) => {
  if (error) throw error;
  console.log(bound);
});
