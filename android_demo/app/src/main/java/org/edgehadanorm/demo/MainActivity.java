package org.edgehadanorm.demo;

import android.app.Activity;
import android.content.Intent;
import android.os.Bundle;
import android.view.View;
import android.widget.RadioGroup;
import android.widget.TextView;
import java.util.Arrays;
import java.util.List;

/** The one activity: three screens under tabs, the line of the chosen bundle, and what went wrong. */
public final class MainActivity extends Activity implements Session.Observer {
    private Session session;
    private Picker picker;
    private GenerateScreen generate;
    private List<Screen> screens;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.activity_main);
        DemoApplication application = (DemoApplication) getApplication();
        session = application.session();
        picker = new Picker(this, session);
        generate = new GenerateScreen(this, session, application.saver(), picker);
        screens = Arrays.asList(generate, new BenchmarkScreen(this, session), new BundlesScreen(this, session,
                picker::zip));
        RadioGroup tabs = findView(R.id.tabs);
        tabs.setOnCheckedChangeListener((group, id) -> showTab(id));
        showTab(tabs.getCheckedRadioButtonId());
        if (saved != null) {
            generate.restore(saved);
        }
        session.begin();
    }

    @Override
    protected void onStart() {
        super.onStart();
        session.observe(this);
    }

    @Override
    protected void onStop() {
        session.forget(this);
        super.onStop();
    }

    @Override
    protected void onSaveInstanceState(Bundle out) {
        super.onSaveInstanceState(out);
        generate.save(out);
    }

    @Override
    public void changed(State state) {
        FrameContent content = new FrameContent(state);
        TextView line = findView(R.id.bundle_line);
        Fields.say(line, content.line());
        TextView problem = findView(R.id.problem);
        problem.setText(content.problem());
        Fields.visible(problem, !content.problem().isEmpty());
        findViewById(R.id.root).setKeepScreenOn(content.keepsScreenOn());
        for (Screen screen : screens) {
            screen.show(state);
        }
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        picker.answered(request, result, data);
    }

    /** What findViewById gives, as what it is. */
    @SuppressWarnings("unchecked")
    private <T extends View> T findView(int id) {
        return (T) findViewById(id);
    }

    private void showTab(int tab) {
        int[] tabs = {R.id.tab_generate, R.id.tab_benchmark, R.id.tab_bundles};
        int[] views = {R.id.screen_generate, R.id.screen_benchmark, R.id.screen_bundles};
        for (int index = 0; index < tabs.length; index++) {
            findViewById(views[index]).setVisibility(tabs[index] == tab ? View.VISIBLE : View.GONE);
        }
    }
}
