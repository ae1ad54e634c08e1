// signal-fire, as its README shows, on a port that is free.
const { createServer } = require('http')
const { Server } = require('signal-fire')

const http = createServer()
new Server({ server: http }).start()
http.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ address: `127.0.0.1:${http.address().port}` }))
})
