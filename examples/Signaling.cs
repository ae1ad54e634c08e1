// A client of the signaling server in one file, for Unity and .NET (from .NET Standard 2.0 on), without
// packages. It signs in, polls with acknowledgements, and comes back after a lost network as the
// same peer: each message arrives once and in order, and each that is sent is delivered once.
//
//     var signaling = new Signaling("http://localhost:3000", "player-1");
//     signaling.PeersChanged += peers => { /* the other peers: choose one to connect to */ };
//     signaling.MessageReceived += (from, text) => { /* an offer, an answer or a candidate */ };
//     signaling.Lost += cause => { /* it goes on trying by itself */ };
//     signaling.SignedIn += id => { /* a new peer, also if the id is the same as before */ };
//     await signaling.Send(peer.Id, "{\"type\":\"offer\",..}");
//
// In Unity, a MonoBehaviour runs it, and signs out when it is destroyed:
//
//     CancellationTokenSource quit = new CancellationTokenSource();
//     async void Start()
//     {
//         try { await signaling.Run(quit.Token); }
//         catch (Exception error) { Debug.LogException(error); }  // refused, or thrown by a handler
//     }
//     void OnDestroy() { quit.Cancel(); }  // do not wait for Run here: it needs this thread
//
// A program of .NET has to reference System.Net.Http. Unity's WebGL has no HttpClient.
// The events come on the thread that has called Run, if it has a SynchronizationContext, as
// Unity's main thread has. The requests are described in openapi.yml and docs/clients.md.

using System;
using System.Collections.Generic;
using System.Linq;
using System.Net.Http;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

/// <summary>Another peer in the list.</summary>
public sealed class SignalingPeer
{
    public int Id;
    public string Name;
    /// <summary>Whether it is reachable at this moment.</summary>
    public bool Connected;
}

/// <summary>The server refuses, and would refuse again.</summary>
public sealed class SignalingException : Exception
{
    /// <summary>The HTTP status: 404, for example, if the receiver is not signed in.</summary>
    public readonly int Status;

    public SignalingException(int status, string message) : base(message)
    {
        Status = status;
    }
}

public sealed class Signaling
{
    /// <summary>The other peers, after each change of the list.</summary>
    public event Action<IReadOnlyList<SignalingPeer>> PeersChanged = delegate { };
    /// <summary>A message: the id of its sender, and its text.</summary>
    public event Action<int, string> MessageReceived = delegate { };
    /// <summary>
    /// Signed in as a new peer; again if the server had removed the peer. Then all ids that were known before
    /// mean nothing any more: a server that was restarted numbers peers from 1 again.
    /// </summary>
    public event Action<int> SignedIn = delegate { };
    /// <summary>The server cannot be reached; the client goes on trying.</summary>
    public event Action<Exception> Lost = delegate { };

    /// <summary>The id of this peer; 0 while it has none.</summary>
    public int Id { get { var mine = session; return mine == null ? 0 : mine.Id; } }

    /// <summary>How long a wait lasts, and how much longer its answer may take.</summary>
    private static readonly TimeSpan WaitLength = TimeSpan.FromSeconds(25);
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(15);
    private static readonly TimeSpan SignOutPatience = TimeSpan.FromSeconds(3);
    /// <summary>For how long a message is sent again to a peer whose mailbox is full.</summary>
    private static readonly TimeSpan FullPatience = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan LongestPause = TimeSpan.FromSeconds(10);

    private sealed class Session
    {
        public int Id;
        public string Token;
        /// <summary>The number of the last message that was received, and of the last that was sent.</summary>
        public long Received, Sent;
    }

    private struct Answer
    {
        /// <summary>0 if there is no answer.</summary>
        public int Status;
        public string Text, Pragma, Token, Sequence, Error;
        /// <summary>How long the server asks to wait before the next request.</summary>
        public TimeSpan RetryAfter;
        /// <summary>Why there is no answer.</summary>
        public Exception Cut;

        /// <summary>Whether the same request may succeed later.</summary>
        public bool MayPass { get { return Status == 0 || Status >= 500 || Status == 408 || Status == 429; } }
    }

    private readonly HttpClient http = new HttpClient(Handler()) { Timeout = Timeout.InfiniteTimeSpan };
    private readonly SemaphoreSlim sending = new SemaphoreSlim(1);
    private readonly string url, name, accessToken;
    private volatile Session session;
    private int isRunning;
    private string toldList;

    /// <param name="url">The URL of the server, or of a room: http://HOST/rooms/NAME.</param>
    /// <param name="name">The name in the list.</param>
    /// <param name="accessToken">The access token, if the server wants one.</param>
    public Signaling(string url, string name, string accessToken = null)
    {
        var parsed = new Uri(url, UriKind.Absolute);
        if (parsed.Scheme != "http" && parsed.Scheme != "https")
        {
            throw new ArgumentException("the URL must begin with http:// or https://: " + url, "url");
        }
        if (string.IsNullOrEmpty(name)) throw new ArgumentException("a name is missing", "name");
        this.url = parsed.GetLeftPart(UriPartial.Path).TrimEnd('/');
        this.name = name;
        this.accessToken = accessToken;
    }

    /// <summary>
    /// Signs in and receives until it is cancelled, then signs out. Throws a SignalingException if the
    /// server does not let this client in, and what a handler of an event throws.
    /// </summary>
    public async Task Run(CancellationToken cancellation)
    {
        if (Interlocked.Exchange(ref isRunning, 1) == 1) throw new InvalidOperationException("it is running already");
        try
        {
            var tries = 0;
            while (!cancellation.IsCancellationRequested)
            {
                var mine = session;
                var answer = await (mine == null ? AskToSignIn() : AskForNews(mine, cancellation));
                if (answer.Status == 200)
                {
                    tries = 0;
                    if (mine == null) HearSignIn(answer);
                    else HearNews(mine, answer);
                    continue;
                }
                if (cancellation.IsCancellationRequested) break;
                // The server has removed the peer, perhaps because it was restarted.
                var isRemoved = mine != null && (answer.Status == 403 || answer.Status == 404);
                if (isRemoved)
                {
                    // The server is there: there is no reason to wait long.
                    session = null;
                    tries = 0;
                }
                else if (!answer.MayPass) throw Refused(answer);
                // A single cut connection is not reported.
                if (!isRemoved && tries > 0) Lost(answer.Cut ?? Refused(answer));
                await Pause(tries++, answer, cancellation);
            }
        }
        finally
        {
            var last = session;
            session = null;
            if (last != null) await SignOut(last);
            Interlocked.Exchange(ref isRunning, 0);
        }
    }

    /// <summary>
    /// Sends a message; returns when the server has it, and tries until then. Throws a SignalingException if it
    /// is refused, and an InvalidOperationException if this client is not signed in (any more).
    /// </summary>
    public async Task Send(int to, string text)
    {
        var since = DateTime.UtcNow;
        // One after the other, because the messages are numbered.
        await sending.WaitAsync();
        try
        {
            var mine = session;
            if (mine == null) throw new InvalidOperationException("not signed in");
            var number = ++mine.Sent;
            for (var tries = 0; ; tries++)
            {
                if (mine != session) throw new InvalidOperationException("the peer was removed");
                var path = "message?peer_id=" + mine.Id + "&to=" + to + "&seq=" + number;
                var answer = await Ask(HttpMethod.Post, path, mine.Token, text, Patience, CancellationToken.None);
                if (answer.Status == 200) return;
                var isFull = answer.Error == "mailbox_full";
                if (isFull && DateTime.UtcNow - since > FullPatience) throw Refused(answer);
                // What was refused gets another number. After any other error the server may have the
                // message: it is sent again with its number, and delivered once.
                if (isFull) number = ++mine.Sent;
                else if (!answer.MayPass) throw Refused(answer);
                await Pause(tries, answer, CancellationToken.None);
            }
        }
        finally
        {
            sending.Release();
        }
    }

    /// <summary>Signing in is not cancelled: the server may already have signed the peer in, and then has to be told to sign it out.</summary>
    private Task<Answer> AskToSignIn()
    {
        var path = "sign_in?resume=true&peer_name=" + Uri.EscapeDataString(name);
        return Ask(HttpMethod.Get, path, null, null, Patience, CancellationToken.None);
    }

    private void HearSignIn(Answer answer)
    {
        int id;
        if (!int.TryParse(answer.Pragma, out id)) throw new SignalingException(404, "there is no signaling server at " + url);
        session = new Session { Id = id, Token = answer.Token };
        toldList = null;
        SignedIn(id);
        TellPeers(answer.Text);
    }

    private Task<Answer> AskForNews(Session mine, CancellationToken cancellation)
    {
        var path = "wait?peer_id=" + mine.Id + "&ack=" + mine.Received + "&limit=" + (long)WaitLength.TotalMilliseconds;
        return Ask(HttpMethod.Get, path, mine.Token, null, WaitLength + Patience, cancellation);
    }

    private void HearNews(Session mine, Answer answer)
    {
        long number;
        if (!long.TryParse(answer.Sequence, out number))
        {
            TellPeers(answer.Text);
        }
        else if (number > mine.Received)
        {
            // A lower number is a repeat, whose acknowledgement was lost.
            mine.Received = number;
            MessageReceived(int.Parse(answer.Pragma), answer.Text);
        }
    }

    /// <summary>A peer whose request is lost times out.</summary>
    private Task SignOut(Session last)
    {
        return Ask(HttpMethod.Post, "sign_out?peer_id=" + last.Id, last.Token, "", SignOutPatience, CancellationToken.None);
    }

    /// <summary>The list has a line NAME,ID,STATUS for each peer.</summary>
    private void TellPeers(string list)
    {
        // A wait that ends without news returns the same list again.
        if (list == toldList) return;
        toldList = list;
        var peers = new List<SignalingPeer>();
        foreach (var line in list.Split(new[] { '\n' }, StringSplitOptions.RemoveEmptyEntries))
        {
            var parts = line.Split(',');
            int id;
            if (parts.Length != 3 || !int.TryParse(parts[1], out id) || id == Id) continue;
            peers.Add(new SignalingPeer { Name = parts[0], Id = id, Connected = parts[2] == "1" });
        }
        PeersChanged(peers);
    }

    private async Task<Answer> Ask(
        HttpMethod method, string path, string token, string body, TimeSpan patience, CancellationToken cancellation)
    {
        using (var giveUp = CancellationTokenSource.CreateLinkedTokenSource(cancellation))
        using (var request = new HttpRequestMessage(method, url + "/" + path))
        {
            giveUp.CancelAfter(patience);
            if (token != null) request.Headers.Add("X-Peer-Token", token);
            else if (accessToken != null) request.Headers.Add("Authorization", "Bearer " + accessToken);
            if (body != null) request.Content = new StringContent(body, Encoding.UTF8, "text/plain");
            try
            {
                using (var response = await http.SendAsync(request, giveUp.Token))
                {
                    var retryAfter = response.Headers.RetryAfter;
                    return new Answer
                    {
                        Status = (int)response.StatusCode,
                        Text = Encoding.UTF8.GetString(await response.Content.ReadAsByteArrayAsync()),
                        Pragma = Header(response, "Pragma"),
                        Token = Header(response, "X-Peer-Token"),
                        Sequence = Header(response, "X-Message-Seq"),
                        Error = Header(response, "X-Error"),
                        RetryAfter = retryAfter == null ? TimeSpan.Zero : retryAfter.Delta ?? TimeSpan.Zero,
                    };
                }
            }
            catch (Exception error)
            {
                // Of many types, depending on the platform, also if it was given up.
                return new Answer { Cut = error };
            }
        }
    }

    /// <summary>
    /// Each client has a wait open, and sends meanwhile: the .NET Framework would open two connections to a
    /// server, for all clients of a process together. Older handlers of Mono cannot be told.
    /// </summary>
    private static HttpClientHandler Handler()
    {
        var handler = new HttpClientHandler();
        try { handler.MaxConnectionsPerServer = 1000; }
        catch (Exception error) when (error is NotImplementedException || error is PlatformNotSupportedException) { }
        return handler;
    }

    private static string Header(HttpResponseMessage response, string name)
    {
        IEnumerable<string> values;
        return response.Headers.TryGetValues(name, out values) ? values.First() : null;
    }

    private static SignalingException Refused(Answer answer)
    {
        return new SignalingException(answer.Status, answer.Text.Trim());
    }

    private static async Task Pause(int tries, Answer answer, CancellationToken cancellation)
    {
        var pause = answer.RetryAfter + TimeSpan.FromMilliseconds(Math.Min(250 * Math.Pow(2, Math.Min(tries, 10)), LongestPause.TotalMilliseconds));
        try
        {
            await Task.Delay(pause, cancellation);
        }
        catch (OperationCanceledException)
        {
            // The loop ends.
        }
    }
}
