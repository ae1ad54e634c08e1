// Reliable-Signaler's interface for RTCMultiConnection and the like:
//
//   const signaler = initReliableSignaler(connection, 'https://example.org/');
//   signaler.createNewRoomOnServer(roomid, () => { ... });
//   signaler.getRoomFromServer(roomid, (roomid) => { ... });
//
// It sets `connection.openSignalingChannel`. After a lost connection it
// announces its rooms and asks its open questions again, once each.
// A third argument has options of the connection: {auth: {token}, path}. By default
// the path is below that of the URL, or beside this script.
{
  const source = document.currentScript && document.currentScript.src;
  const isOurs = /\/reliable-signaler\/signaler\.js(\?|$)/.test(source);
  const base = new URL(isOurs ? '../' : '/', source || location.href);

  window.initReliableSignaler = (connection, url, {auth, path} = {}) => {
    if (!connection) throw new Error('initReliableSignaler needs a connection');

    const server = new URL(url || base, location.href);
    const isOwn = server.pathname === '/' && server.origin === base.origin;
    const below = (isOwn ? base : server).pathname.replace(/\/?$/, '/socket.io/');
    const options = {auth, path: path || below, reliable: true};
    const socket = io.connect(server.origin, options);
    socket.on('connect_error', (error) => console.error('signaling:', error.message));
    const onMessage = new Map(); // by channel
    const rooms = new Map(); // by id, the callbacks that wait for the server's answer
    const questions = new Map(); // by id, the callbacks that wait for the room

    const announce = (roomid) => {
      if (rooms.get(roomid).length === 0) {
        socket.emit('keep-session', roomid);
        return;
      }
      socket.emit('keep-in-server', roomid, () => {
        rooms.get(roomid).splice(0).forEach((callback) => callback());
      });
    };

    const ask = (roomid) => {
      socket.emit('get-session-info', roomid, (found) => {
        const callbacks = questions.get(roomid) || [];
        questions.delete(roomid);
        callbacks.forEach((callback) => callback(found));
      });
    };

    // Nothing is emitted while the socket is not connected: this makes up for it.
    socket.on('connect', () => {
      [...rooms.keys()].forEach(announce);
      [...questions.keys()].forEach(ask);
    });

    socket.on('message', (data) => {
      const receive = data && onMessage.get(data.channel);
      if (receive) receive(data.message);
    });

    const identify = () => {
      connection.userid = connection.userid || Math.random().toString(36).slice(2);
    };

    connection.openSignalingChannel = function (config) {
      const channel = config.channel || this.channel || 'default-channel';
      onMessage.set(channel, config.onmessage);
      if (config.onopen) setTimeout(config.onopen, 1);
      return {
        channel,
        send: (message) => {
          socket.emit('message', {sender: connection.userid, channel, message});
        },
      };
    };

    return {
      socket,
      createNewRoomOnServer: (roomid, callback = () => {}) => {
        connection.roomid = roomid;
        connection.isInitiator = true;
        identify();
        const room = roomid || connection.channel;
        rooms.set(room, [...(rooms.get(room) || []), callback]);
        if (socket.connected) announce(room);
      },
      getRoomFromServer: (roomid, callback = () => {}) => {
        identify();
        const isOpen = questions.has(roomid);
        questions.set(roomid, [...(questions.get(roomid) || []), callback]);
        if (socket.connected && !isOpen) ask(roomid);
      },
    };
  };
}
