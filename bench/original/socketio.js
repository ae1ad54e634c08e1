// socket.io, passing messages on as simple_webrtc_signaling_server and
// Reliable-Signaler do.
const { createServer } = require('http')
const { Server } = require('socket.io')

const http = createServer()
new Server(http).on('connection', (socket) => {
  socket.on('message', (message) => socket.broadcast.emit('message', message))
})
http.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ address: `127.0.0.1:${http.address().port}` }))
})
