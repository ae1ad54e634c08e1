// The original with its heartbeat extension, composed as its README shows, with its log off.
const express = require('express')
const signalRouterCreator = require('webrtc-signal-http')
const heartbeatRouterCreator = require('webrtc-signal-http-heartbeat')

const app = express()
const heartbeatRouter = heartbeatRouterCreator({})
const signalRouter = signalRouterCreator({
  peerList: heartbeatRouter.peerList,
  enableLogging: false,
  enableCors: true
})

app.use(signalRouter, heartbeatRouter)

const server = app.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ address: `127.0.0.1:${server.address().port}` }))
})
