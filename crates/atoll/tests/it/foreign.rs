//! Programs that nobody here wrote, unchanged, as services: one from Python, one from npm, one from Debian.

use crate::application::{Application, tools};

#[test]
fn three_foreign_web_servers_answer_through_one_gateway() {
    let npm = tools().join("node_modules/.bin/http-server");
    let route = |name: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\nmatches = [{{ path = {{ prefix = \"/{name}\" }} }}]\n\
             filters = [{{ url_rewrite = {{ prefix = \"/\" }} }}]\nbackends = [{{ service = \"{name}\" }}]\n"
        )
    };
    let service = |name: &str, command: &str| {
        format!("{}[services.{name}]\nworking_dir = \"www\"\ncommand = \"{command}\"\n", route(name))
    };
    let manifest = [
        service("python", "python3 -m http.server --bind ${HOST} ${PORT}"),
        service("npm", &format!("{} -a ${{HOST}} -p ${{PORT}} .", npm.display())),
        service("debian", "busybox httpd -f -p ${HOST}:${PORT} -h ."),
    ];
    let app = Application::with_manifest(&manifest.concat());
    app.write("www/page.html", "<h1>unchanged</h1>");
    app.up();
    for name in ["python", "npm", "debian"] {
        let (status, body) = app.get(&format!("/{name}/page.html"));
        assert_eq!((status, body.trim()), (200, "<h1>unchanged</h1>"), "{name}");
    }
}
