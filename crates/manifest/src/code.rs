//! The stable names of everything that can be wrong with a manifest. A code is never reused for something else.
//! Each has a page `docs/errors/<code>.md`, whose first example is also its test.

use crate::diagnostic::Severity;

macro_rules! codes {
    ($($variant:ident = $text:literal: $title:literal,)*) => {
        /// What kind of problem a diagnostic reports.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every code, in order.
            #[must_use]
            pub const fn all() -> &'static [Self] {
                &[$(Self::$variant,)*]
            }

            /// The code as it is printed: `E` or `W` and four digits.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// A few words on what it means.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// The page of the manual about it, in Markdown.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self {
                    $(Self::$variant => {
                        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors/", $text, ".md"))
                    })*
                }
            }
        }
    };
}

codes! {
    Unreadable = "E0001": "a file cannot be read",
    Syntax = "E0002": "the text is not TOML",
    Limit = "E0003": "a limit is exceeded",
    NulCharacter = "E0004": "a string contains a NUL character",
    NoMatch = "E0005": "an include matches no file",
    Pattern = "E0006": "a pattern is malformed",
    RootOnly = "E0007": "a key belongs to the root manifest",
    FolderMissing = "E0008": "a folder is missing",
    FolderNotYet = "W0009": "a folder is missing until something makes it",

    UnknownKey = "E0101": "a key is unknown",
    NotYet = "E0102": "a key is known, but not supported by this version",
    WrongType = "E0103": "a value has the wrong type",
    MissingKey = "E0104": "a key is missing",
    Choice = "E0105": "a value is not one of those allowed",
    Exclusive = "E0106": "keys that exclude each other",
    Range = "E0107": "a number is out of range",
    Duration = "E0108": "a duration cannot be read",
    DurationRange = "E0109": "a duration is out of range",
    UndefinedVariable = "E0110": "a variable is not defined",
    Expansion = "E0111": "a `${…}` is malformed",
    Quantity = "E0112": "a size or an amount of CPU cannot be read",
    Expression = "E0113": "an expression cannot be read",
    Url = "E0114": "the URL of a server cannot be read",
    Schema = "E0115": "a schema cannot be read",

    Name = "E0201": "a name is malformed",
    ReservedName = "E0202": "a name is taken by the platform",
    Duplicate = "E0203": "something is declared twice",
    UnknownService = "E0204": "a service is not declared",
    UnknownDatabase = "E0205": "a database is not declared",
    SelfReference = "E0206": "a service refers to itself",
    EdgeWithoutUpstream = "E0207": "a policy for an upstream that is not one",
    Cycle = "E0208": "services wait for each other",
    VariableCollision = "E0209": "two things are given in the same variable",
    NeverFulfilled = "E0210": "a dependency can never be fulfilled",
    Empty = "E0211": "nothing to run",
    UpdateEndless = "E0212": "an update that could never finish",
    WatchIdle = "E0213": "a `watch` that could do nothing",
    PolicyContradicts = "E0214": "a policy that contradicts itself",
    Subject = "E0215": "a subject is malformed",
    UnknownTopic = "E0216": "a topic is not declared",
    TopicOverlap = "E0217": "topics that overlap",
    TopicContradicts = "E0218": "a topic that contradicts itself",
    StoreSmall = "E0219": "topics that the store cannot hold",
    SubscriptionContradicts = "E0220": "a subscription that contradicts itself",
    OutboxSilent = "E0221": "an outbox of which nothing is published",

    Listen = "E0301": "an address cannot be listened on",
    ListenExposed = "W0302": "a listener can be reached from other machines",
    DefaultPortTaken = "W0303": "a default port is taken",
    Path = "E0304": "a path is malformed",
    Regex = "E0305": "a regular expression is malformed",
    Hostname = "E0306": "a hostname is malformed",
    Method = "E0307": "a request method is unknown",
    Header = "E0308": "a header cannot be used",
    Weights = "E0309": "no backend takes requests",
    Filters = "E0310": "filters that do not fit together",
    NoAnswer = "E0311": "a route that answers nothing",

    Command = "E0401": "a command cannot be split into words",
    VariableName = "E0402": "a variable's name is malformed",
    ReservedVariable = "E0403": "a variable that only the platform sets",
    EnvFile = "E0404": "an `env_file` is malformed",
    PortsExhausted = "E0405": "no port is left",
    ShellSyntax = "W0406": "a command has the syntax of a shell",

    DatabaseUnused = "W0501": "a database is not used",
    DatabaseShared = "W0502": "a database is shared by services",
    CallCycle = "W0503": "services call each other in a circle",
    TimeoutInversion = "W0504": "a caller gives up before what it waits for",
    ServiceUnused = "W0505": "nothing leads to a service",
    RouteShadowed = "W0506": "a route never gets a request",
    ProbeDepends = "W0507": "a probe asks another service",
    UpdateOutage = "W0508": "every update is an outage",
    RetryUnsafe = "W0509": "a retry may do something twice",
    RetryAmplification = "W0510": "retries multiply along a path",
    ChainDeep = "W0511": "a chain of calls is deep",
    FanOutWide = "W0512": "a service calls many others",
    AllowIdle = "W0513": "an `allow` that silences nothing",
    PolicyIdle = "W0514": "a part of a policy never acts",
    FallbackPretends = "W0515": "a fallback tells a writer that all is well",
    SubscriptionSilent = "W0516": "a subscription that nobody publishes to",
    DeliveryOutlasts = "W0517": "a delivery that may outlast the stop of its service",
}

impl Code {
    /// Whether it stops the compilation. Written in the code's first letter.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self.as_str().as_bytes() {
            [b'W', ..] => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// Whether it is about the architecture, so that `allow` can silence it where it is meant.
    #[must_use]
    pub const fn is_lint(self) -> bool {
        matches!(self.as_str().as_bytes(), [b'W', b'0', b'5', ..]) && !matches!(self, Self::AllowIdle)
    }
}
