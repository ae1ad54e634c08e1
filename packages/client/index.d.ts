export * from './client.js';
export * from './rtc.js';
